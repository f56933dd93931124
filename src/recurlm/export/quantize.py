"""Quantize the products of a graph with weights to int8 or int4. A product that cannot be quantized is an error.

Each becomes a MatMulInteger, whose integer sums are exact on every processor, in any order and at any batch size.
Inputs are uint8 with 128 for 0, and weights int8 whose scales keep pairs of products within 16 bits: uint8 with uint8
would need no care, at half the speed. Int4 weights are unpacked to 8 bits by a few operators that read constants only:
onnxruntime folds them when it loads a file.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np
import onnx
from jaxtyping import Float, Int8, UInt8
from onnx import TensorProto

from recurlm.export.rewriter import Array, Rewriter, key_of, product_weights, subgraphs
from recurlm.export.sums import Origin, Origins

# The arithmetic: no graph, no model.

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


# What a graph gets.

PRODUCTS = ("MatMul", "Gemm", "Einsum", "Conv")
ACTIVATIONS = "fp32_activations"  # products of two activations, which have no weights to quantize
Product = Int8Weights  # or Int4Weights

SMALLEST_TABLE = 2**20  # bytes; a table below that is left in fp32, which saves three nodes a token


@dataclass
class Quantizer:
    """How a model is quantized: the same for each of its graphs."""

    products: Mapping[str, Product]  # by the key of its weights
    tables: dict[str, Int8Table] = field(default_factory=dict)
    arithmetic: dict[str, Array] = field(default_factory=dict)
    """What PyTorch needs to compute the very same (verify/quantized.py), by the keys of the model's own weights:

    - `weights.<key>` [in, out]: their quantized form, whole numbers; `scale.<key>` of the inputs, `back.<key>` [out] of
      the sums; `group.<key>`: a number that weights share whose products are added up before they are scaled,
    - `table.<key>` [vocabulary, width]: what stands in place of a product of these weights with a token's embedding, or
      of the embedding itself, and `steps.<key>`: after how many constants.
    """

    def write(self, graph: onnx.GraphProto, origins: Origins) -> None:
        """Quantize a graph in place.

        Args:
            origins: what `simplify` said of the graph.

        Raises:
            ValueError: a product with weights was not calibrated, or its weights are no constant matrix on the right.
        """
        writer = _Writer(graph)
        weights = writer.weights
        constant = constants(graph.node, frozenset(weights))
        for node in graph.node:
            product, table = product_weights(node, weights), _table(node, weights)
            if product is not None:
                quantized = self.products.get(key_of(product))
                if quantized is None:
                    raise ValueError(f"the product {node.output[0]} was not seen while the model read text")
                writer.product(node, quantized)
                self._note_product(product, quantized, origins.get(node.input[1], Origin([product])).parts)
            elif table is not None:
                origin = origins.get(node.input[0], Origin([table]))
                if table.nbytes >= SMALLEST_TABLE:
                    quantized_table = self.tables.setdefault(key_of(table), quantize_table(table))
                    writer.table(node, quantized_table)
                    table = quantized_table.dequantized()
                else:
                    writer.nodes.append(node)
                key = key_of(origin.parts[0])
                self._note(f"table.{key}", table)
                self._note(f"steps.{key}", np.array(origin.steps))
            elif node.op_type in PRODUCTS and not constant.isdisjoint(factors(node)):
                raise ValueError(f"the product {node.output[0]} has weights that cannot be quantized where they stand")
            else:
                writer.nodes.append(node)
        writer.finish()

    def _note_product(self, whole: Array, quantized: Product, parts: list[Array]) -> None:
        int8, begin, group = quantized.to_int8(), 0, np.array(int(key_of(whole)[:15], 16))
        for part in parts:
            key = key_of(part)
            self._note(f"weights.{key}", np.ascontiguousarray(int8.weights[begin : begin + len(part)]))
            self._note(f"scale.{key}", np.asarray(int8.input_scale))
            self._note(f"back.{key}", int8.back)
            self._note(f"group.{key}", group)
            begin += len(part)

    def _note(self, name: str, value: Array) -> None:
        known = self.arithmetic.setdefault(name, value)
        if not np.array_equal(known, value):
            raise ValueError("the same weights are read in two forms, which int8 and int4 cannot tell apart")


def _table(node: onnx.NodeProto, weights: Mapping[str, Array]) -> Array | None:
    if node.op_type != "Gather" or node.input[1] != "token":
        return None
    table = weights.get(node.input[0])
    return table if table is not None and table.ndim == 2 else None


class _Writer(Rewriter):
    def product(self, node: onnx.NodeProto, quantized: Product) -> None:
        name = node.output[0]
        bias = node.input[2] if len(node.input) > 2 else None
        scale = self.weight(f"{name}.input_scale", quantized.input_scale)
        zero = self.weight(f"{name}.input_zero", np.uint8(128))
        input_ = self.node("QuantizeLinear", [node.input[0], scale, zero], f"{name}.rounded")
        if isinstance(quantized, Int4Weights):
            weight = self._unpacked(f"{name}.weight4", quantized)
        else:
            weight = self.weight(f"{name}.weight8", quantized.weights)
        total = self.node("MatMulInteger", [input_, weight, zero], f"{name}.total")
        back = self.weight(f"{name}.scale", quantized.back)
        result = f"{name}.product" if bias else name
        self.node("Mul", [self.node("Cast", [total], f"{name}.float", to=TensorProto.FLOAT), back], result)
        if bias:
            self.node("Add", [result, bias], name)

    def _unpacked(self, name: str, quantized: Int4Weights) -> str:
        """Add the nodes that unpack int4 weights and their group scales to 8-bit weights."""
        (inputs, outputs), groups = quantized.weights.shape, len(quantized.group_scales)
        packed = self.weight(name, quantized.packed())
        bytes_ = self.node("Cast", [packed], f"{name}.bytes", to=TensorProto.INT32)
        sixteen = self.weight(f"{name}.sixteen", np.int32(16))
        first = self.node("Mod", [bytes_, sixteen], f"{name}.first")
        second = self.node("Div", [bytes_, sixteen], f"{name}.second")
        both = self.node("Concat", [first, second], f"{name}.both", axis=0)
        signed = self.node("Sub", [both, self.weight(f"{name}.eight", np.int32(8))], f"{name}.signed")
        group_scales = self.weight(f"{name}.multiples", quantized.group_scales[:, None])
        shape = self.weight(f"{name}.blocks", np.array([groups, quantized.group_size, outputs]))
        flat = self.weight(f"{name}.rows", np.array([groups * quantized.group_size, outputs]))
        spread = self.node("Cast", [group_scales], f"{name}.whole", to=TensorProto.INT32)
        spread = self.node("Reshape", [self.node("Expand", [spread, shape], f"{name}.spread"), flat], f"{name}.each")
        begin, end = self.weight(f"{name}.begin", np.array([0])), self.weight(f"{name}.end", np.array([inputs]))
        factors = [self.node("Slice", [value, begin, end], f"{value}.cut") for value in (signed, spread)]
        return self.node("Cast", [self.node("Mul", factors, f"{name}.product")], f"{name}.out", to=TensorProto.INT8)

    def table(self, node: onnx.NodeProto, quantized: Int8Table) -> None:
        name = node.output[0]
        row = self.node("Gather", [self.weight(f"{name}.table8", quantized.rows), "token"], f"{name}.row", axis=0)
        scale = self.node("Gather", [self.weight(f"{name}.scale", quantized.scale), "token"], f"{name}.scaled", axis=0)
        self.node("Mul", [self.node("Cast", [row], f"{name}.float", to=TensorProto.FLOAT), scale], name)


def factors(node: onnx.NodeProto) -> list[str]:
    """What a product multiplies: not its bias."""
    return list(node.input if node.op_type == "Einsum" else node.input[:2])


def constants(nodes: Iterable[onnx.NodeProto], weights: frozenset[str]) -> frozenset[str]:
    """The weights, and the values that nodes compute from weights alone."""
    names = set(weights)
    for node in nodes:
        if node.op_type == "Constant" or (node.input and names.issuperset(filter(None, node.input))):
            names.update(node.output)
    return frozenset(names)


def count_products(
    graph: onnx.GraphProto, weights: frozenset[str] = frozenset(), around: frozenset[str] = frozenset()
) -> dict[str, int]:
    """How many products a graph, with the graphs in it, computes in each precision.

    Products of two activations have no weights: they are not quantized, and counted apart.

    Args:
        weights: of the graphs around this one; what MatMulInteger reads beside them was unpacked from 4 bits.
        around: values of those graphs that are computed from weights alone.
    """
    weights |= {weight.name for weight in graph.initializer}
    constant = constants(graph.node, weights | around)
    counts = dict.fromkeys(("fp32", "int8", "int4", ACTIVATIONS), 0)
    for node in graph.node:
        if node.op_type in PRODUCTS:
            counts[ACTIVATIONS if constant.isdisjoint(factors(node)) else "fp32"] += 1
        elif node.op_type == "MatMulInteger":
            counts["int8" if node.input[1] in weights else "int4"] += 1
        for inner in subgraphs(node):
            for kind, count in count_products(inner, weights, constant).items():
                counts[kind] += count
    return counts
