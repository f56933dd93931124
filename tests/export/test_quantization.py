"""Promises of the arithmetic of int8 and int4."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from recurlm.export.quantize import Int8Weights, quantize_int4, quantize_int8, quantize_table

MATRICES = arrays.arrays(
    np.float32,
    st.tuples(st.integers(1, 40), st.integers(1, 9)),
    elements=st.integers(-8000, 8000).map(lambda number: number / 1000),
)


def second_moments(inputs: int, samples: int = 400) -> np.ndarray:
    """Of inputs that hang together, as those of a recurrence do."""
    random = np.random.default_rng(inputs)
    x = random.standard_normal((samples, 3)) @ random.standard_normal((3, inputs))
    x += 0.3 * random.standard_normal((samples, inputs))
    return x.T @ x / samples


def dequantized(quantized: Int8Weights) -> np.ndarray:
    int8 = quantized.to_int8()
    return int8.weights * int8.scale


@given(MATRICES)
@settings(deadline=None)
def test_int8_weights_are_off_by_at_most_half_a_step(weights: np.ndarray) -> None:
    quantized = quantize_int8(weights, 1.0)
    assert np.abs(dequantized(quantized) - weights).max() <= quantized.scale.max() / 2 * 1.001
    assert (quantized.scale <= np.where(weights.any(axis=0), 2 * np.abs(weights).max(axis=0) / 127 * 1.001, 1)).all()


@given(MATRICES, st.sampled_from(["int8", "int4"]))
@settings(max_examples=50, deadline=None)
def test_two_neighbouring_products_fit_16_bits_whatever_the_input(weights: np.ndarray, precision: str) -> None:
    if precision == "int8":
        whole = quantize_int8(weights, 1.0).weights.astype(int)
    else:
        whole = quantize_int4(weights, second_moments(len(weights)), 1.0, 16).to_int8().weights.astype(int)
    pairs = np.pad(whole, ((0, len(whole) % 2), (0, 0))).reshape(-1, 2, whole.shape[1])
    assert 255 * pairs.clip(min=0).sum(axis=1).max() <= 2**15 - 1
    assert 255 * pairs.clip(max=0).sum(axis=1).min() >= -(2**15)


@given(MATRICES)
@settings(deadline=None)
def test_each_row_of_a_table_has_a_scale_of_its_own(table: np.ndarray) -> None:
    quantized = quantize_table(table)
    assert (np.abs(quantized.dequantized() - table) <= quantized.scale / 2 * 1.001).all()


@given(MATRICES, st.sampled_from([16, 32]))
@settings(max_examples=25, deadline=None)
def test_int4_weights_are_packed_two_a_byte_and_times_their_group_scales_they_are_int8(
    weights: np.ndarray, group_size: int
) -> None:
    quantized = quantize_int4(weights, second_moments(len(weights)), 1.0, group_size)
    packed = quantized.packed().astype(int)
    assert len(packed) == -(-len(weights) // 2)
    back = np.concatenate([packed % 16, packed // 16])[: len(weights)] - 8
    np.testing.assert_array_equal(back, quantized.weights)
    spread = np.repeat(quantized.group_scales.astype(int), group_size, axis=0)[: len(weights)]
    eight = quantized.to_int8()
    np.testing.assert_array_equal(eight.weights, back * spread)  # nothing overflows
    np.testing.assert_array_equal(eight.scale, quantized.scale)


@pytest.mark.parametrize("inputs", [32, 50])
def test_errors_that_are_made_up_for_harm_outputs_less_than_rounding_to_the_nearest(inputs: int) -> None:
    weights = np.random.default_rng(1).standard_normal((inputs, 20)).astype(np.float32)
    moments = second_moments(inputs)

    def harm(approximate: np.ndarray) -> float:
        """The mean squared error of the outputs."""
        error = approximate - weights
        return float(np.einsum("io,ij,jo->", error, moments, error))

    # Inputs that don't hang together: nothing to make up for.
    nearest = quantize_int4(weights, np.diag(np.diag(moments)), 1.0, 16)
    assert harm(dequantized(quantize_int4(weights, moments, 1.0, 16))) < 0.5 * harm(dequantized(nearest))
    assert harm(dequantized(quantize_int8(weights, 1.0))) < 0.05 * harm(dequantized(nearest))


def test_inputs_that_never_came_and_weights_of_zero_do_no_harm() -> None:
    quantized = quantize_int4(np.zeros((32, 3), np.float32), np.zeros((32, 32)), 0.0, 16)
    assert not dequantized(quantized).any()
    assert isinstance(quantize_int8(np.zeros((4, 2), np.float32), 0.0), Int8Weights)
    assert not dequantized(quantize_int8(np.zeros((4, 2), np.float32), 0.0)).any()
