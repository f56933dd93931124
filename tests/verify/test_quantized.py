"""Promises of PyTorch with quantized products: known by their bytes, never by an address alone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurlm.export.calibrate import key_of
from recurlm.verify.quantized import QuantizedProducts

SCALE = torch.tensor(0.5)


def quantized_as(matrix: Tensor, weights: Tensor) -> QuantizedProducts:
    key = key_of(matrix.numpy())
    return QuantizedProducts({f"weights.{key}": weights, f"scale.{key}": SCALE})


def test_products_with_a_parameter_and_with_views_of_it_are_quantized() -> None:
    linear = nn.Linear(3, 2, bias=False).requires_grad_(False)
    matrix, weights = linear.weight.T.contiguous(), torch.ones(3, 2)
    x = torch.tensor([[0.6, -0.2, 100.0]])
    with quantized_as(matrix, weights) as quantized:
        for product in (linear(x), torch.matmul(x, linear.weight.T), torch.matmul(x, matrix)):
            assert product.tolist() == [[0.5 + 0.0 + 63.5] * 2]  # rounded to 1, −0 and 127 halves
    assert len(quantized.met) == 1


def test_a_product_with_an_activation_is_never_that_of_a_matrix_that_lay_at_its_address() -> None:
    matrix, other, x = torch.randn(3, 2), torch.randn(3, 2), torch.randn(4, 3)
    activation = matrix.clone()
    with quantized_as(matrix, torch.ones(3, 2)):
        quantized = x @ activation
        activation.copy_(other)
        exact = x @ activation
    assert not torch.equal(quantized, x @ matrix)
    assert torch.equal(exact, x @ other)


def test_a_parameter_that_was_changed_in_place_is_another_matrix() -> None:
    parameter, x = nn.Parameter(torch.randn(3, 2), requires_grad=False), torch.randn(4, 3)
    with quantized_as(parameter.clone(), torch.ones(3, 2)):
        before = x @ parameter
        parameter.mul_(2)
        after = x @ parameter
    assert not torch.equal(before, x @ parameter / 2)
    assert torch.equal(after, x @ parameter)


def test_the_margin_of_a_row_is_that_of_all_its_heads() -> None:
    matrix = torch.randn(2, 2)
    x = torch.zeros(3, 4, 2)  # batch, heads, features; 0 is half a step from an edge
    x[1, 2, 0] = 0.25 + 0.005  # an edge between two multiples of 0.5, and a hundredth of a step beyond it
    quantized = quantized_as(matrix, torch.ones(2, 2))
    quantized.margin = torch.full((3,), torch.inf)
    with quantized:
        torch.matmul(x, matrix)
    torch.testing.assert_close(quantized.margin, torch.tensor([0.5, 0.01, 0.5]), rtol=0, atol=1e-5)
