"""The backward passes that are written out by hand, against numbers and against torch's own modules."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recurlm.variants import gru, rnn

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
        return gru._Chunk.apply(x, h, *parameters, reset)
    *matrices, b, d = parameters
    return rnn._Chunk.apply(x, h, *matrices, b + d, cell, reset)


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
