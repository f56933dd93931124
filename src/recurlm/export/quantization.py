"""Weights as 8 or 4 bits, and what the inputs that they meet are rounded to. Arithmetic only: no graph, no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8, UInt8

Weights = Float[np.ndarray, "inputs outputs"]

LARGEST_MULTIPLE = 15  # of an output's scale: 15 · −8 is a number of 8 bits
DAMPING = 0.01  # of the mean of the inputs' second moments, added to each: Frantar et al. use the same


@dataclass(frozen=True)
class EightBits:
    """Weights of 8 bits with one scale an output; inputs of 8 bits with one scale for all of them."""

    weights: Int8[np.ndarray, "inputs outputs"]
    scale: Float[np.ndarray, "outputs"]
    input_scale: np.float32

    def dequantized(self) -> Weights:
        return np.asarray(self.weights * self.scale, np.float32)


@dataclass(frozen=True)
class FourBits:
    """Weights of 4 bits; those of a block of inputs and an output share a scale, a whole multiple of the output's.

    So they are weights of 8 bits that need half the space: to multiply them out is exact, and so are their products.
    """

    weights: Int8[np.ndarray, "inputs outputs"]  # −8 … 7
    multiples: Int8[np.ndarray, "blocks outputs"]  # −15 … 15; the last block may be shorter
    scale: Float[np.ndarray, "outputs"]
    input_scale: np.float32
    block: int

    def multiplied(self) -> EightBits:
        spread = np.repeat(self.multiples, self.block, axis=0)[: len(self.weights)]
        return EightBits(self.weights * spread, self.scale, self.input_scale)

    def packed(self) -> UInt8[np.ndarray, "half_inputs outputs"]:
        """Two weights a byte, 8 standing for 0: those of the first half of the inputs in the low bits."""
        half = -(-len(self.weights) // 2)
        padded = np.full((2 * half, self.weights.shape[1]), 8, np.uint8)
        padded[: len(self.weights)] = (self.weights + 8).astype(np.uint8)
        return np.asarray(padded[:half] | padded[half:] << 4, np.uint8)


@dataclass(frozen=True)
class EightBitTable:
    """Rows of 8 bits, each with a scale of its own."""

    rows: Int8[np.ndarray, "vocabulary width"]
    scale: Float[np.ndarray, "vocabulary 1"]

    def dequantized(self) -> Float[np.ndarray, "vocabulary width"]:
        return np.asarray(self.rows * self.scale, np.float32)


def eight_bits(weights: Weights, largest_input: float) -> EightBits:
    """Round to the nearest; the largest weight of an output, and the largest input, end the scales."""
    scale = (np.abs(weights).max(axis=0) / 127).astype(np.float32)
    scale[scale == 0] = 1
    return EightBits(np.rint(weights / scale).astype(np.int8), scale, _input_scale(largest_input))


def _input_scale(largest: float) -> np.float32:
    return np.float32(max(largest, 1e-6) / 127)


def eight_bit_table(table: Float[np.ndarray, "vocabulary width"]) -> EightBitTable:
    scale = (np.abs(table).max(axis=1, keepdims=True) / 127).astype(np.float32)
    scale[scale == 0] = 1
    return EightBitTable(np.rint(table / scale).astype(np.int8), scale)


def four_bits(
    weights: Weights, moments: Float[np.ndarray, "inputs inputs"], largest_input: float, block: int
) -> FourBits:
    """Round input by input, and let the weights that are still to come make up for each error.

    GPTQ (Frantar et al. 2023, arXiv:2210.17323): what counts is the error of the output over inputs as they occur.

    Args:
        moments: the mean of x xᵀ over inputs x that were seen on text.
        largest_input: the largest |x| of them.
        block: inputs that share a multiple of the output's scale.
    """
    inputs, outputs = weights.shape
    left = weights.astype(np.float64)
    damped = moments + np.eye(inputs) * (DAMPING * np.trace(moments) / inputs + 1e-12)
    # Upper triangular, with R'R = the inverse of the moments: row k says how an error at input k is made up for.
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    rounded = np.empty((inputs, outputs), np.int8)
    multiples = np.empty((-(-inputs // block), outputs), np.int8)
    whole = (np.abs(weights).max(axis=0) / (8 * LARGEST_MULTIPLE)).astype(np.float32)
    whole[whole == 0] = 1
    for begin in range(0, inputs, block):
        end = min(begin + block, inputs)
        multiple = multiples[begin // block] = _best_multiple(left[begin:end] / whole, np.diag(moments)[begin:end])
        scale = multiple * whole.astype(np.float64)
        errors = np.empty((end - begin, outputs))
        for k in range(begin, end):
            rounded[k] = np.clip(np.rint(left[k] / scale), -8, 7)
            errors[k - begin] = (left[k] - rounded[k] * scale) / spread[k, k]
            left[k + 1 : end] -= spread[k, k + 1 : end, None] * errors[k - begin]
        left[end:] -= spread[begin:end, end:].T @ errors
    return FourBits(rounded, multiples, whole, _input_scale(largest_input), block)


def _best_multiple(
    weights: Float[np.ndarray, "block outputs"], importance: Float[np.ndarray, "block"]
) -> Int8[np.ndarray, "outputs"]:
    """For each output, the whole scale with the least squared error, the inputs weighted by how large they are.

    Of −8 … 7 the larger side takes the largest weight, so a scale may be negative.
    """
    largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=0)[None], axis=0)[0]
    sign = np.where(largest > 0, -1, 1).astype(np.int8)
    errors = []
    for multiple in range(1, LARGEST_MULTIPLE + 1):
        scale = sign * multiple
        rounded = np.clip(np.rint(weights / scale), -8, 7)
        errors.append(((rounded * scale - weights) ** 2 * importance[:, None]).sum(axis=0))
    return np.asarray(sign * (1 + np.argmin(errors, axis=0)), np.int8)
