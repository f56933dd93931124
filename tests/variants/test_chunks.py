"""The backward passes that are written out by hand, against numbers and against torch's own modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recurlm.variants import loop
from recurlm.variants.base import Scaled, rms_norm
from recurlm.variants.compose import ShortConv

TIME, BATCH, INPUT, HIDDEN = 5, 3, 4, 6
CELLS = ["tanh", "relu", "gru"]


def weights(cell: str, dtype: torch.dtype, hidden: int = HIDDEN, width: int = INPUT) -> tuple[nn.Module, list[Tensor]]:
    torch.manual_seed(1)
    layer = (
        nn.GRU(width, hidden, batch_first=True)
        if cell == "gru"
        else nn.RNN(width, hidden, nonlinearity=cell, batch_first=True)
    )
    layer = layer.to(dtype)
    return layer, list(layer.parameters())


def chunk(cell: str, reset: Tensor | None, x: Tensor, h: Tensor, *parameters: Tensor) -> tuple[Tensor, ...]:
    if cell == "gru":
        return loop.GRUChunk.apply(x, h, *parameters, reset)
    *matrices, b, d = parameters
    return loop.RNNChunk.apply(x, h, *matrices, b + d, cell, reset)


@pytest.mark.parametrize("resets", [False, True])
@pytest.mark.parametrize("time", [1, TIME])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_are_those_of_finite_differences(cell: str, time: int, resets: bool) -> None:
    _, parameters = weights(cell, torch.float64)
    x = torch.randn(BATCH, time, INPUT, dtype=torch.float64, requires_grad=True)
    h = torch.randn(BATCH, HIDDEN, dtype=torch.float64, requires_grad=True)
    reset = torch.rand(BATCH, time) < 0.4 if resets else None
    assert torch.autograd.gradcheck(lambda *inputs: chunk(cell, reset, *inputs), (x, h, *parameters))


@pytest.mark.parametrize("cell", CELLS)
def test_under_autocast_gradients_are_as_near_to_fp32_as_those_of_torch_s_own_loop(cell: str) -> None:
    layer, parameters = weights(cell, torch.float32, hidden=64, width=48)
    x, h = torch.randn(8, 40, 48), torch.randn(8, 64)
    goal = torch.randn(8, 40, 64)

    def gradients(y: Tensor, last: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad((y * goal).sum() + last.sum(), parameters)

    exact = gradients(*layer(x, h[None]))
    with torch.autocast("cpu", torch.bfloat16):
        own = layer(x, h[None])
        written_out = chunk(cell, None, x, h, *parameters)
    assert written_out[0].dtype == torch.bfloat16
    for found, theirs, expected in zip(gradients(*written_out), gradients(*own), exact, strict=True):
        assert 0 < (found - expected).norm() < 2 * (theirs - expected).norm()


@pytest.mark.parametrize("part", [None, (4,), (2, 4)])
def test_a_norm_s_gradients_are_those_of_finite_differences(part: tuple[int, ...] | None) -> None:
    torch.manual_seed(1)
    x = torch.randn(BATCH, TIME, 2, 4, dtype=torch.float64, requires_grad=True)
    weight = None if part is None else torch.randn(part, dtype=torch.float64, requires_grad=True)
    inputs = (x,) if weight is None else (x, weight)
    assert torch.autograd.gradcheck(lambda x, weight=None: Scaled.apply(x, weight, 4, torch.float64), inputs)
    if weight is not None:
        fast = rms_norm(x, weight)
        with torch.no_grad():
            torch.testing.assert_close(fast, rms_norm(x, weight), rtol=1e-12, atol=1e-12)


def test_a_norm_gives_autocast_s_precision_and_adds_up_in_fp32() -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(3, 400).bfloat16().requires_grad_(True), torch.randn(400, requires_grad=True)
    with torch.autocast("cpu", torch.bfloat16):
        found = rms_norm(x, weight)
    assert found.dtype == torch.bfloat16
    exact = rms_norm(x.detach().double(), weight.detach().double())
    torch.testing.assert_close(found.double(), exact, rtol=2**-8, atol=1e-6)


@pytest.mark.parametrize("time", [1, 2, TIME])
def test_a_convolution_s_gradients_are_those_of_finite_differences_and_its_values_those_of_steps(time: int) -> None:
    torch.manual_seed(1)
    conv = ShortConv(INPUT, 3).double()
    torch.nn.init.normal_(conv.bias)
    x = torch.randn(BATCH, time, INPUT, dtype=torch.float64, requires_grad=True)
    start = torch.randn(BATCH, 2, INPUT, dtype=torch.float64, requires_grad=True)

    def read(x: Tensor, start: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, ...]:
        y, state = torch.func.functional_call(conv, {"weight": weight, "bias": bias}, (x, {"conv": start}))
        return y, state["conv"]

    assert torch.autograd.gradcheck(read, (x, start, conv.weight, conv.bias))
    y, state, expected = conv(x, {"conv": start})[0], {"conv": start}, []
    for element in x.unbind(1):
        at, state = conv.step(element, state)
        expected.append(at)
    torch.testing.assert_close(y, torch.stack(expected, dim=1), rtol=1e-12, atol=1e-12)
