"""Weights as 8 or 4 bits, and what the inputs that they meet are rounded to. Arithmetic only: no graph, no model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int8, UInt8

Weights = Float[np.ndarray, "inputs outputs"]

CLIPS = np.linspace(0.5, 1.0, 26)  # shares of the largest weight that are tried as the end of the scale
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
    """Weights of 4 bits with one scale for each block of inputs and output; the last block may be shorter."""

    weights: Int8[np.ndarray, "inputs outputs"]  # −8 … 7
    scale: Float[np.ndarray, "blocks outputs"]
    block: int

    def dequantized(self) -> Weights:
        inputs = len(self.weights)
        return np.asarray(self.weights * np.repeat(self.scale, self.block, axis=0)[:inputs], np.float32)

    def packed(self) -> UInt8[np.ndarray, "outputs blocks half_block"]:
        """Two weights a byte, the first in the low half, 8 standing for 0: as the operator MatMulNBits reads them."""
        blocks = len(self.scale)
        padded = np.full((blocks * self.block, self.weights.shape[1]), 8, np.uint8)
        padded[: len(self.weights)] = (self.weights + 8).astype(np.uint8)
        nibbles = padded.T.reshape(-1, blocks, self.block)
        return np.asarray(nibbles[..., 0::2] | nibbles[..., 1::2] << 4, np.uint8)


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
    return EightBits(np.rint(weights / scale).astype(np.int8), scale, np.float32(max(largest_input, 1e-6) / 127))


def eight_bit_table(table: Float[np.ndarray, "vocabulary width"]) -> EightBitTable:
    scale = (np.abs(table).max(axis=1, keepdims=True) / 127).astype(np.float32)
    scale[scale == 0] = 1
    return EightBitTable(np.rint(table / scale).astype(np.int8), scale)


def four_bits(weights: Weights, moments: Float[np.ndarray, "inputs inputs"], block: int) -> FourBits:
    """Round input by input, and let the weights that are still to come make up for each error.

    GPTQ (Frantar et al. 2023, arXiv:2210.17323): what counts is the error of the output over inputs as they occur.

    Args:
        moments: the mean of x xᵀ over inputs x that were seen on text.
    """
    inputs, outputs = weights.shape
    left = weights.astype(np.float64)
    damped = moments + np.eye(inputs) * (DAMPING * np.trace(moments) / inputs + 1e-12)
    # Upper triangular, with R'R = the inverse of the moments: row k says how an error at input k is made up for.
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    rounded = np.empty((inputs, outputs), np.int8)
    scales = np.empty((-(-inputs // block), outputs), np.float32)
    for begin in range(0, inputs, block):
        end = min(begin + block, inputs)
        scale = scales[begin // block] = _best_scale(left[begin:end], np.diag(moments)[begin:end])
        errors = np.empty((end - begin, outputs))
        for k in range(begin, end):
            rounded[k] = np.clip(np.rint(left[k] / scale), -8, 7)
            errors[k - begin] = (left[k] - rounded[k] * scale.astype(np.float64)) / spread[k, k]
            left[k + 1 : end] -= spread[k, k + 1 : end, None] * errors[k - begin]
        left[end:] -= spread[begin:end, end:].T @ errors
    return FourBits(rounded, scales, block)


def _best_scale(
    weights: Float[np.ndarray, "block outputs"], importance: Float[np.ndarray, "block"]
) -> Float[np.ndarray, "outputs"]:
    """For each output, the scale with the least squared error, the inputs weighted by how large they are.

    Of −8 … 7 the larger side takes the largest weight, so a scale may be negative.
    """
    largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=0)[None], axis=0)[0]
    best, least = np.ones(weights.shape[1], np.float32), np.full(weights.shape[1], np.inf)
    for clip in CLIPS:
        scale = (largest * clip / -8).astype(np.float32)
        scale[scale == 0] = 1
        rounded = np.clip(np.rint(weights / scale), -8, 7)
        error = ((rounded * scale - weights) ** 2 * importance[:, None]).sum(axis=0)
        better = error < least
        best[better], least[better] = scale[better], error[better]
    return best
