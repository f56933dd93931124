"""Promises of PyTorch in the arithmetic of a bundle: weights known by their bytes, sums in the graph's form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from recurlm.errors import InputError
from recurlm.export.rewriter import key_of
from recurlm.verify.quantized import QuantizedArithmetic

SCALE = torch.tensor(0.5)


def quantized_as(matrix: Tensor, weights: Tensor) -> QuantizedArithmetic:
    key = key_of(matrix.numpy())
    back = torch.full((weights.shape[1],), 0.5)
    entries = {"weights": weights, "scale": SCALE, "back": back, "group": torch.tensor(1)}
    return QuantizedArithmetic({f"{name}.{key}": value for name, value in entries.items()})


def test_products_with_a_parameter_and_with_views_of_it_are_quantized() -> None:
    linear = nn.Linear(3, 2, bias=False).requires_grad_(False)
    matrix, weights = linear.weight.T.contiguous(), torch.ones(3, 2)
    x = torch.tensor([[0.6, -0.2, 100.0]])
    with quantized_as(matrix, weights) as quantized:
        for product in (linear(x), torch.matmul(x, linear.weight.T), torch.matmul(x, linear.weight.T.contiguous())):
            assert product.tolist() == [[0.5 + 0.0 + 63.5] * 2]  # rounded to 1, −0 and 127 halves
    assert len(quantized.met) == 1


def test_products_of_three_axes_are_quantized_in_any_layout() -> None:
    """Where torch cannot join the first axes, it multiplies a batch of matrices with the weights, repeated."""
    linear = nn.Linear(3, 2, bias=False).requires_grad_(False)
    x = torch.randint(-100, 100, (5, 4, 6, 3)) / 4
    with quantized_as(linear.weight.T.contiguous(), torch.ones(3, 2)):
        apart = x.transpose(1, 2).unbind(-2)[1] @ linear.weight.T
        flat = x[:, 1].reshape(-1, 3) @ linear.weight.T
    assert torch.equal(apart, flat.view(5, 6, 2))


def test_a_product_with_an_activation_is_never_that_of_a_matrix_with_its_numbers() -> None:
    matrix, x = torch.randn(3, 2), torch.randn(4, 3)
    activation = matrix.clone()
    with quantized_as(matrix, torch.ones(3, 2)) as quantized:
        product = x @ activation
    assert not quantized.met
    torch.testing.assert_close(product, x @ matrix)


def test_a_parameter_that_was_changed_in_place_is_another_matrix() -> None:
    parameter, x = nn.Parameter(torch.randn(3, 2), requires_grad=False), torch.randn(4, 3)
    with quantized_as(parameter.clone(), torch.ones(3, 2)):
        before = x @ parameter
        parameter.mul_(2)
        with pytest.raises(ValueError, match="was not quantized"):
            x @ parameter
    assert not torch.equal(before, x @ parameter / 2)


def test_an_operation_without_an_exact_form_is_one_clear_error() -> None:
    with (
        quantized_as(torch.ones(3, 2), torch.ones(3, 2)),
        pytest.raises(InputError, match="no exact form of torch's erf"),
    ):
        torch.erf(torch.ones(2))


def test_products_of_one_sum_are_added_up_as_whole_numbers_and_others_are_not() -> None:
    """Scaled one by one, 7 · 0.1 + 7 · 0.1 and 14 · 0.1 have other bits in fp32 for some of these."""
    first, second = (nn.Parameter(torch.randn(3, 40), requires_grad=False) for _ in range(2))
    back, entries = torch.rand(40), {}
    for group in (0, 1):
        for number, matrix in enumerate((first, second)):
            key = key_of(matrix.numpy())
            whole = torch.arange(120.0).view(3, 40) % 7 + number
            entries |= {f"weights.{key}": whole, f"scale.{key}": SCALE, f"back.{key}": back}
            entries[f"group.{key}"] = torch.tensor(group * number)
        x = torch.tensor([[1.0, 2.0, 3.5]])
        with QuantizedArithmetic(entries):
            a, b = x @ first, x @ second
            both = a + b
        totals = [x / SCALE @ entries[f"weights.{key_of(matrix.numpy())}"] for matrix in (first, second)]
        assert torch.equal(both, (totals[0] + totals[1]) * back if group == 0 else a + b)
    assert not torch.equal((totals[0] + totals[1]) * back, a + b)
