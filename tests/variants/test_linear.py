"""The kernels of linear recurrences against their sequential twins."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from recurlm.variants.linear import (
    CHUNK,
    FLOOR,
    VECTOR_CHUNK,
    Writes,
    chunked,
    linear,
    products,
    scan,
    sequential,
    unit,
)

BATCH, HEADS, KEYS, VALUES = 2, 2, 4, 3
KINDS = [(vector, erase, micro) for vector in (False, True) for erase in (False, True) for micro in (1, 2, 3)]
every_kind = pytest.mark.parametrize(("vector", "erase", "micro"), KINDS)


def random_writes(
    time: int, vector: bool, erase: bool, micro: int, dtype: torch.dtype, g: Callable[..., Tensor] | None = None
) -> tuple[Writes, Tensor]:
    torch.manual_seed(time)
    steps = time * micro
    k = unit(torch.randn(BATCH, steps, HEADS, KEYS, dtype=dtype))
    beta = 2 * torch.rand(BATCH, steps, HEADS, 1, dtype=dtype)
    size = (BATCH, steps, HEADS, *([KEYS] if vector else []))
    decay = -torch.rand(size, dtype=dtype) if g is None else g(size).to(dtype)
    q, y = torch.randn(BATCH, time, HEADS, KEYS, dtype=dtype), torch.randn(BATCH, steps, HEADS, VALUES, dtype=dtype)
    return Writes(q, k, y, decay, beta * k if erase else None), torch.randn(BATCH, HEADS, KEYS, VALUES, dtype=dtype)


def largest_difference(found: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> float:
    """Over the largest number that was expected."""
    return max(
        float((a - b).detach().abs().max() / b.detach().abs().max()) for a, b in zip(found, expected, strict=True)
    )


@every_kind
@pytest.mark.parametrize("resets", [False, True])
def test_chunks_equal_steps_in_double(vector: bool, erase: bool, micro: int, resets: bool) -> None:
    for time in (1, 7, VECTOR_CHUNK, CHUNK, CHUNK + 19, 3 * CHUNK):
        writes, S = random_writes(time, vector, erase, micro, torch.float64)
        reset = torch.rand(BATCH, time) < 0.1 if resets else None
        assert largest_difference(chunked(writes, S, reset), sequential(writes, S, reset)) < 1e-10


def extreme(lowest: float) -> Callable[..., Tensor]:
    """Decays that keep all but nothing, all but everything, or anything between, each step another."""

    def g(size: tuple[int, ...]) -> Tensor:
        kind = torch.randint(3, size)
        between = -torch.exp(torch.rand(size) * 12 - 9).clamp(max=-lowest)
        return torch.where(
            kind == 0, torch.full(size, lowest), torch.where(kind == 1, torch.full(size, -1e-6), between)
        )

    return g


@pytest.mark.parametrize(("vector", "erase", "micro"), [kind for kind in KINDS if kind[2] < 3])
@torch.no_grad()
def test_in_fp32_4096_steps_with_extreme_decays_stay_near_double(vector: bool, erase: bool, micro: int) -> None:
    """The twin in double; its inputs are those of fp32."""
    writes, S = random_writes(4096 // micro, vector, erase, micro, torch.float32, extreme(FLOOR if vector else -1e4))
    exact = Writes(*(None if part is None else part.double() for part in writes))
    for reset in (None, torch.rand(BATCH, 4096 // micro) < 0.01):
        found = chunked(writes, S, reset)
        assert all(bool(part.isfinite().all()) for part in found)
        assert largest_difference(found, sequential(exact, S.double(), reset)) < 1e-4


@every_kind
@pytest.mark.parametrize("resets", [False, True])
def test_gradients_are_those_of_steps(vector: bool, erase: bool, micro: int, resets: bool) -> None:
    time = 37
    writes, S = random_writes(time, vector, erase, micro, torch.float64)
    reset = torch.rand(BATCH, time) < 0.1 if resets else None
    inputs = [part.requires_grad_(True) for part in (*writes, S) if part is not None]

    def gradients(kernel: Callable[..., tuple[Tensor, Tensor]]) -> tuple[Tensor, ...]:
        o, end = kernel(writes, S, reset)
        torch.manual_seed(1)
        return torch.autograd.grad((o * torch.randn(o.shape)).sum() + (end * torch.randn(end.shape)).sum(), inputs)

    assert largest_difference(gradients(chunked), gradients(sequential)) < 1e-10


def scanned(a: Tensor, b: Tensor, h: Tensor, reset: Tensor | None) -> tuple[Tensor, Tensor]:
    outputs = []
    for t in range(b.shape[1]):
        if reset is not None:
            h = h * ~reset[:, t, None]
        h = a[:, t] * h + b[:, t]
        outputs.append(h)
    return torch.stack(outputs, dim=1), h


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize("resets", [False, True])
def test_a_scan_and_its_gradients_are_those_of_a_loop(dtype: torch.dtype, resets: bool) -> None:
    torch.manual_seed(1)
    for time in (1, 2, 9):
        a, b = (torch.randn(BATCH, time, 3, dtype=dtype, requires_grad=True) for _ in range(2))
        h = torch.randn(BATCH, 3, dtype=dtype, requires_grad=True)
        reset = torch.rand(BATCH, time) < 0.3 if resets else None
        assert largest_difference(scan(a, b, h, reset), scanned(a, b, h, reset)) < 1e-12

        def gradients(kernel: Callable[..., tuple[Tensor, Tensor]], of: tuple, reset: Tensor | None) -> tuple:
            y, end = kernel(*of, reset)
            torch.manual_seed(2)
            loss = (y * torch.randn(y.shape)).sum() + (end * torch.randn(end.shape)).sum()
            return torch.autograd.grad(loss.abs() ** 2, of)

        assert largest_difference(gradients(scan, (a, b, h), reset), gradients(scanned, (a, b, h), reset)) < 1e-12


def test_products_side_by_side_are_those_of_each_layer_and_so_are_their_gradients() -> None:
    torch.manual_seed(1)
    x, layers = torch.randn(BATCH, 5, 4, dtype=torch.float64), [linear(4, size).double() for size in (3, 1, 6)]
    weights = [weight for layer in layers for weight in layer.parameters()]
    joined, apart = products(x, *layers), tuple(layer(x) for layer in layers)
    with torch.no_grad():
        assert all(torch.equal(a, b) for a, b in zip(products(x, *layers), apart, strict=True))
    found, expected = (torch.autograd.grad(sum((y**2).sum() for y in of), weights) for of in (joined, apart))
    assert largest_difference(joined + found, apart + expected) < 1e-12
