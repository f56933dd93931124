"""Quantization of weights to int8 and int4, and of activations to int8. Arithmetic only: no graph, no model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Float, Int8, UInt8

Weights = Float[np.ndarray, "inputs outputs"]

LARGEST = 127  # of an 8-bit number, and of a sum of two neighbouring weights: see `quantize_int8`
MAX_GROUP_SCALE = 8  # 8 · −8 is −64, and twice that −128
DAMPING = 0.01  # of the mean of the inputs' second moments, added to each: Frantar et al. use the same


@dataclass
class Inputs:
    """Statistics of the inputs x of one product, while a model reads text."""

    weights: Weights
    moments: Float[np.ndarray, "inputs inputs"] = field(init=False)  # the sum of x xᵀ
    count: int = 0
    largest: float = 0.0

    def __post_init__(self) -> None:
        self.moments = np.zeros((len(self.weights), len(self.weights)))

    def add(self, x: Float[np.ndarray, "*batch inputs"]) -> None:
        x = x.reshape(-1, x.shape[-1])
        self.moments += x.T @ x
        self.count += len(x)
        self.largest = max(self.largest, float(np.abs(x).max()))

    def mean(self) -> Float[np.ndarray, "inputs inputs"]:
        return self.moments / self.count


@dataclass(frozen=True)
class Int8Weights:
    """Int8 weights with one scale an output channel; int8 inputs with one scale for the whole tensor."""

    weights: Int8[np.ndarray, "inputs outputs"]  # of 4 bits −8 … 7
    scale: Float[np.ndarray, "outputs"]
    input_scale: np.float32

    def to_int8(self) -> Int8Weights:
        return self

    @property
    def back(self) -> Float[np.ndarray, "outputs"]:
        """What a sum of whole numbers is multiplied with."""
        return np.asarray(self.scale * self.input_scale, np.float32)


@dataclass(frozen=True)
class Int4Weights(Int8Weights):
    """Int4 weights; a group of inputs of an output channel shares a scale, a whole multiple of the channel's scale.

    Weight times group scale is an int8, so the conversion to int8 weights is exact, and so are their products.
    """

    group_scales: Int8[np.ndarray, "groups outputs"]  # −8 … 8; the last group may be smaller
    group_size: int

    def to_int8(self) -> Int8Weights:
        spread = np.repeat(self.group_scales, self.group_size, axis=0)[: len(self.weights)]
        return Int8Weights(self.weights * spread, self.scale, self.input_scale)

    def packed(self) -> UInt8[np.ndarray, "half_inputs outputs"]:
        """Two weights a byte, 8 standing for 0: those of the first half of the inputs in the low bits."""
        half = -(-len(self.weights) // 2)
        padded = np.full((2 * half, self.weights.shape[1]), 8, np.uint8)
        padded[: len(self.weights)] = (self.weights + 8).astype(np.uint8)
        return np.asarray(padded[:half] | padded[half:] << 4, np.uint8)


@dataclass(frozen=True)
class Int8Table:
    """An embedding table in int8, with one scale a row."""

    rows: Int8[np.ndarray, "vocabulary width"]
    scale: Float[np.ndarray, "vocabulary 1"]

    def dequantized(self) -> Float[np.ndarray, "vocabulary width"]:
        return np.asarray(self.rows * self.scale, np.float32)


def quantize_int8(weights: Weights, largest_input: float) -> Int8Weights:
    """Round to nearest, with the smallest scale of an output channel that keeps the sums of products exact everywhere.

    Processors without VNNI add the products of two neighbouring inputs in 16 bits. So no two neighbouring weights sum
    up to more than ±128, rounding included: 255 · 128 < 2^15.
    """
    pairs = np.pad(weights, ((0, len(weights) % 2), (0, 0))).reshape(-1, 2, weights.shape[1])
    above, below = (part.clip(min=0).sum(axis=1).max(axis=0) for part in (pairs, -pairs))
    scale = (np.maximum(above, below) / LARGEST).astype(np.float32)
    scale[scale == 0] = 1
    return Int8Weights(np.rint(weights / scale).astype(np.int8), scale, _input_scale(largest_input))


def _input_scale(largest: float) -> np.float32:
    return np.float32(max(largest, 1e-6) / LARGEST)


def quantize_table(table: Float[np.ndarray, "vocabulary width"]) -> Int8Table:
    scale = (np.abs(table).max(axis=1, keepdims=True) / LARGEST).astype(np.float32)
    scale[scale == 0] = 1
    return Int8Table(np.rint(table / scale).astype(np.int8), scale)


def quantize_int4(
    weights: Weights, moments: Float[np.ndarray, "inputs inputs"], largest_input: float, group_size: int
) -> Int4Weights:
    """Quantize with GPTQ (Frantar et al. 2023, arXiv:2210.17323), with one more scale a group.

    Weights are rounded input by input, and the weights not yet rounded compensate for each error: GPTQ minimizes the
    squared error of the outputs over the calibration inputs.

    Args:
        moments: the mean of x xᵀ over the calibration inputs x: half the Hessian.
        largest_input: the largest |x| of them.
        group_size: inputs of an output channel that share a group scale.
    """
    inputs, outputs = weights.shape
    remaining = weights.astype(np.float64)
    damped = moments + np.eye(inputs) * (DAMPING * np.trace(moments) / inputs + 1e-12)
    # Upper triangular, with R'R = the inverse of the moments: row k says how to compensate for an error at input k.
    spread = np.linalg.cholesky(np.linalg.inv(damped)).T
    quantized = np.empty((inputs, outputs), np.int8)
    group_scales = np.empty((-(-inputs // group_size), outputs), np.int8)
    channel_scale = (np.abs(weights).max(axis=0) / (8 * MAX_GROUP_SCALE)).astype(np.float32)
    channel_scale[channel_scale == 0] = 1
    for begin in range(0, inputs, group_size):
        end = min(begin + group_size, inputs)
        group_scale = _best_group_scale(remaining[begin:end] / channel_scale, np.diag(moments)[begin:end])
        group_scales[begin // group_size] = group_scale
        scale = group_scale * channel_scale.astype(np.float64)
        errors = np.empty((end - begin, outputs))
        for k in range(begin, end):
            quantized[k] = np.clip(np.rint(remaining[k] / scale), -8, 7)
            errors[k - begin] = (remaining[k] - quantized[k] * scale) / spread[k, k]
            remaining[k + 1 : end] -= spread[k, k + 1 : end, None] * errors[k - begin]
        remaining[end:] -= spread[begin:end, end:].T @ errors
    return Int4Weights(quantized, channel_scale, _input_scale(largest_input), group_scales, group_size)


def _best_group_scale(
    weights: Float[np.ndarray, "group outputs"], importance: Float[np.ndarray, "group"]
) -> Int8[np.ndarray, "outputs"]:
    """For each output, the group scale with the least squared error, weighted by the mean squared inputs.

    Of −8 … 7 the larger side takes the largest weight, so a scale may be negative.
    """
    largest = np.take_along_axis(weights, np.abs(weights).argmax(axis=0)[None], axis=0)[0]
    sign = np.where(largest > 0, -1, 1).astype(np.int8)
    errors = []
    for group_scale in range(1, MAX_GROUP_SCALE + 1):
        scale = sign * group_scale
        quantized = np.clip(np.rint(weights / scale), -8, 7)
        errors.append(((quantized * scale - weights) ** 2 * importance[:, None]).sum(axis=0))
    return np.asarray(sign * (1 + np.argmin(errors, axis=0)), np.int8)
