"""Promises of the exact functions: how far each is from the true one over its whole range; sums in every order."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from recurlm.export import exact
from recurlm.export.exact import TORCH

EVERYWHERE = np.concatenate(
    [np.linspace(-200, 200, 400_001), -np.logspace(-30, 30, 20_000), np.logspace(-30, 30, 20_000)]
)
POSITIVE = np.concatenate([np.logspace(-37.9, 38.5, 200_001), 1 + np.linspace(-0.3, 0.3, 100_001)])
EXPONENTS = np.linspace(-87, 88, 400_001)


def values(function: Callable[..., Tensor], x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """x as fp32 holds it, and the function's values there, both as doubles."""
    rounded = torch.from_numpy(x.astype(np.float32))
    return rounded.double().numpy(), function(TORCH, rounded).double().numpy()


def logistic(x: np.ndarray) -> np.ndarray:
    return 0.5 + 0.5 * np.tanh(x / 2)


# Function, true function, range, largest absolute error.
ABSOLUTE = {
    "tanh": (exact.tanh, np.tanh, EVERYWHERE, 2.73e-3),
    "sigmoid": (exact.sigmoid, logistic, EVERYWHERE, 1.37e-3),
    "softplus": (exact.softplus, lambda x: np.logaddexp(0, x), EVERYWHERE[:400_001], 1.8e-5),
    "log_sigmoid": (exact.log_sigmoid, lambda x: -np.logaddexp(0, -x), EVERYWHERE[:400_001], 1.8e-5),
    "log1p": (exact.log1p, np.log1p, np.linspace(0, 1, 100_001), 6.2e-6),
    "sin": (exact.sin, np.sin, np.linspace(-3000, 3000, 400_001), 3e-7),
    "cos": (exact.cos, np.cos, np.linspace(-3000, 3000, 400_001), 3e-7),
}
# Function, true function, range, largest relative error.
RELATIVE = {
    "exp": (exact.exp, np.exp, EXPONENTS, 1.8e-3),
    "exp down to 1e-17": (exact.exp, np.exp, np.linspace(-39, 20, 100_001), 7e-5),
    "log": (exact.log, np.log, POSITIVE, 3e-7),
    "silu": (exact.silu, lambda x: x * logistic(x), np.linspace(0, 100, 100_001), 2.1e-3),
    "softplus": (exact.softplus, lambda x: np.logaddexp(0, x), np.linspace(-39, 80, 100_001), 8e-5),
}


@pytest.mark.parametrize("name", ABSOLUTE)
def test_the_absolute_error_is_at_most_this(name: str) -> None:
    function, true, x, bound = ABSOLUTE[name]
    x, y = values(function, x)
    assert np.abs(y - true(x)).max() <= bound


@pytest.mark.parametrize("name", RELATIVE)
def test_the_relative_error_is_at_most_this(name: str) -> None:
    function, true, x, bound = RELATIVE[name]
    x, y = values(function, x)
    expected = true(x)
    assert (np.abs(y - expected) <= bound * np.abs(expected)).all()


def test_what_is_bounded_stays_within_its_bounds() -> None:
    x = torch.from_numpy(EVERYWHERE.astype(np.float32))
    assert exact.tanh(TORCH, x).abs().max() <= 1
    assert exact.tanh(TORCH, torch.tensor([0.0, 1e30])).tolist() == pytest.approx([0, 1], abs=3e-7)
    gate = exact.sigmoid(TORCH, x)
    assert gate.min() >= 0
    assert gate.max() <= 1
    assert torch.equal(exact.tanh(TORCH, -x), -exact.tanh(TORCH, x))


def test_a_sigmoid_is_that_of_tanh_bit_for_bit() -> None:
    x = torch.from_numpy(EVERYWHERE.astype(np.float32))
    assert torch.equal(exact.sigmoid(TORCH, x), 0.5 + 0.5 * exact.tanh(TORCH, 0.5 * x))


@pytest.mark.parametrize("function", [exact.tanh, exact.sigmoid])
def test_more_of_x_is_never_less_of_a_gate_but_for_rounding(function: Callable[..., Tensor]) -> None:
    y = function(TORCH, torch.linspace(-9, 9, 1_000_001)).double()
    assert torch.diff(y).min() >= -4e-7


def test_exp_is_0_where_something_is_masked_and_finite_everywhere() -> None:
    y = exact.exp(TORCH, torch.tensor([-math.inf, -1e30, -87.5, 0.0, 1e30]))
    assert y[:4].tolist() == [0, 0, 0, 1]
    assert torch.isfinite(y).all()


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100])
def test_sums_of_other_axes_are_those_of_pairs(size: int) -> None:
    x = torch.randn(3, size, 5)
    rows = np.pad(x.numpy(), ((0, 0), (0, (1 << (size - 1).bit_length()) - size), (0, 0)))
    while rows.shape[1] > 1:
        half = rows.shape[1] // 2
        rows = rows[:, :half] + rows[:, half:]
    assert torch.equal(exact.total(TORCH, x, -2, size), torch.from_numpy(rows))
    torch.testing.assert_close(torch.from_numpy(rows), x.sum(-2, keepdim=True))


def in_order(x: np.ndarray, width: int) -> np.ndarray:
    """A sum in fp32 as a processor takes it that adds up `width` numbers side by side: 1 is one after the other."""
    x = np.pad(x, ((0, 0), (0, -x.shape[1] % width)))
    lanes = np.add.accumulate(x.reshape(len(x), -1, width), axis=1, dtype=np.float32)[:, -1]
    return np.add.accumulate(lanes, axis=1, dtype=np.float32)[:, -1]


@pytest.mark.parametrize("size", [2, 8, 9, 64, 100, 256, 1000, 4096])
@pytest.mark.parametrize("scale", [1e-15, 1.0, 1e15])
def test_a_sum_is_the_same_in_every_order(size: int, scale: float, monkeypatch: pytest.MonkeyPatch) -> None:
    draw = np.random.default_rng(size)
    x = (scale * draw.standard_normal((50, size)) * np.exp(3 * draw.standard_normal((50, size)))).astype(np.float32)
    x[0], x[1] = 0, np.abs(x[1])
    x[2:20] = scale * draw.choice([-1, 1], (18, 1)) * np.exp2(draw.uniform(-2, 2, (18, 1)))
    summed: list[Tensor] = []
    along = TORCH.along

    def watched(kind: str, value: Tensor, axis: int, *sizes: int) -> Tensor:
        if kind == "ReduceSum":
            summed.append(value)
        return along(kind, value, axis, *sizes)

    monkeypatch.setattr(TORCH, "along", watched)
    y = exact.total(TORCH, torch.from_numpy(x), -1, size)[:, 0].numpy()
    true = x.astype(np.float64).sum(1)
    assert (np.abs(y - true) <= size * np.abs(x).max(1) * size * 2.0**-22).all()
    assert len(summed) == (size > exact.IN_PAIRS)
    for grid in summed:
        rounded = grid.numpy()
        assert (np.abs(rounded - x) <= size * np.abs(x).max(1, keepdims=True) * 2.0**-22).all()
        for width in (1, 4, 8, 16, 64):
            for rows in (rounded, rounded[:, ::-1], rounded[:, draw.permutation(size)]):
                assert np.array_equal(in_order(rows, width), y)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 100])
@pytest.mark.parametrize("axis", [-1, -2])
def test_what_is_made_of_sums_is_near_to_the_true_one(size: int, axis: int) -> None:
    torch.manual_seed(size)
    x = torch.randn(3, 5, size) if axis == -1 else torch.randn(3, size, 5)
    torch.testing.assert_close(exact.total(TORCH, x, axis, size), x.sum(axis, keepdim=True), rtol=0, atol=1e-3)
    torch.testing.assert_close(exact.running_total(TORCH, x, axis, size), x.cumsum(axis))
    torch.testing.assert_close(exact.softmax(TORCH, x, axis, size), x.softmax(axis), rtol=4e-5, atol=1e-6)
    torch.testing.assert_close(exact.log_softmax(TORCH, x, axis, size), x.log_softmax(axis), rtol=1e-5, atol=2e-5)


def test_layer_normalization_is_that_of_torch() -> None:
    torch.manual_seed(0)
    x = torch.randn(4, 37) * 3 + 1
    expected = torch.nn.functional.layer_norm(x, (37,), eps=1e-5)
    torch.testing.assert_close(exact.normalize(TORCH, x, -1, 37, 1e-5), expected, rtol=0, atol=3e-5)


def test_a_root_is_rounded_correctly() -> None:
    x = torch.from_numpy(np.exp(np.random.default_rng(0).uniform(-80, 80, 100_000)).astype(np.float32))
    assert torch.equal(TORCH.sqrt(x), torch.from_numpy(np.sqrt(x.numpy().astype(np.float64)).astype(np.float32)))
