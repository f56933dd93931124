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
from onnx import TensorProto

from recurlm.export.quantization import Int4Weights, Int8Table, Int8Weights, quantize_table
from recurlm.export.rewriter import Array, Rewriter, key_of, product_weights, subgraphs
from recurlm.export.sums import Origin, Origins

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
