"""Write the products of a graph in 8 or 4 bits. A product that cannot be is an error, not a surprise."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recurlm.export.calibrate import key_of, product_weights
from recurlm.export.rounding import EightBits, EightBitTable, FourBits, eight_bit_table
from recurlm.export.sums import Origins

Array = np.ndarray[Any, Any]
Product = EightBits | FourBits

SMALLEST_TABLE = 2**20  # bytes; a table below that is left in fp32, which saves three nodes a token
CONTRIB = "com.microsoft"  # the domain of onnxruntime's own operators, of which 4 bits need one


@dataclass
class Rounding:
    """How a model is rounded: the same for each of its graphs."""

    products: Mapping[str, Product]  # by the key of its weights
    tables: dict[str, EightBitTable] = field(default_factory=dict)
    arithmetic: dict[str, Array] = field(default_factory=dict)
    """What PyTorch needs to round in the same way (proof/rounded.py), by the keys of the model's own weights:
    `weights.<key>` [in, out], and with them `scale.<key>` (of 8-bit inputs) or `block.<key>` (of inputs that share a
    scale); `error.<key>` [vocabulary, width] of a table's rows."""

    def write(self, graph: onnx.GraphProto, origins: Origins) -> None:
        """Round a graph in place.

        Args:
            origins: what `simplify` said of the graph.

        Raises:
            ValueError: a product is not known. It would have stayed in fp32 without a word.
        """
        weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
        writer = _Writer(weights)
        for node in graph.node:
            product, table = product_weights(node, weights), _table(node, weights)
            if product is not None:
                rounded = self.products.get(key_of(product))
                if rounded is None:
                    raise ValueError(f"the product {node.output[0]} was not seen while the model read text")
                writer.product(node, rounded)
                self._note_product(rounded, origins.get(node.input[1], [product]))
            elif table is not None and table.nbytes >= SMALLEST_TABLE:
                rounded_table = self.tables.setdefault(key_of(table), eight_bit_table(table))
                writer.table(node, rounded_table)
                origin = origins.get(node.input[0], [table])[0]
                self.arithmetic[f"error.{key_of(origin)}"] = rounded_table.dequantized() - table
            elif node.op_type in ("MatMul", "Gemm"):
                raise ValueError(f"the product {node.output[0]} has no constant weights: it cannot be rounded")
            else:
                writer.nodes.append(node)
        writer.finish(graph)

    def _note_product(self, rounded: Product, parts: list[Array]) -> None:
        begin, whole = 0, rounded.dequantized()
        for part in parts:
            key = key_of(part)
            self.arithmetic[f"weights.{key}"] = np.ascontiguousarray(whole[begin : begin + len(part)])
            if isinstance(rounded, EightBits):
                self.arithmetic[f"scale.{key}"] = np.asarray(rounded.input_scale)
            else:
                self.arithmetic[f"block.{key}"] = np.asarray(rounded.block, np.int64)
            begin += len(part)


def _table(node: onnx.NodeProto, weights: Mapping[str, Array]) -> Array | None:
    if node.op_type != "Gather" or node.input[1] != "token":
        return None
    found = weights.get(node.input[0])
    return found if found is not None and found.ndim == 2 else None


class _Writer:
    def __init__(self, weights: dict[str, Array]) -> None:
        self.weights = weights
        self.nodes: list[onnx.NodeProto] = []

    def product(self, node: onnx.NodeProto, rounded: Product) -> None:
        name = node.output[0]
        bias = node.input[2] if len(node.input) > 2 else None
        result = f"{name}.product" if bias else name
        write: Callable[..., None] = self._eight if isinstance(rounded, EightBits) else self._four
        write(node.input[0], name, rounded, result)
        if bias:
            self._node("Add", [result, bias], name)

    def _eight(self, value: str, name: str, rounded: EightBits, result: str) -> None:
        scale = self._weight(f"{name}.input_scale", rounded.input_scale)
        zero = self._weight(f"{name}.input_zero", np.uint8(128))
        input_ = self._node("QuantizeLinear", [value, scale, zero], f"{name}.rounded")
        weight = self._weight(f"{name}.weight8", rounded.weights)
        total = self._node("MatMulInteger", [input_, weight, zero], f"{name}.total")
        back = self._weight(f"{name}.scale", (rounded.scale * rounded.input_scale).astype(np.float32))
        self._node("Mul", [self._node("Cast", [total], f"{name}.float", to=TensorProto.FLOAT), back], result)

    def _four(self, value: str, name: str, rounded: FourBits, result: str) -> None:
        inputs, outputs = rounded.weights.shape
        weight = self._weight(f"{name}.weight4", rounded.packed())
        scale = self._weight(f"{name}.scale", rounded.scale.T.ravel())
        self._node(
            "MatMulNBits",
            [value, weight, scale],
            result,
            domain=CONTRIB,
            K=inputs,
            N=outputs,
            bits=4,
            block_size=rounded.block,
            accuracy_level=4,  # inputs rounded to 8 bits, block by block
        )

    def table(self, node: onnx.NodeProto, rounded: EightBitTable) -> None:
        name = node.output[0]
        row = self._node("Gather", [self._weight(f"{name}.table8", rounded.rows), "token"], f"{name}.row", axis=0)
        scale = self._node("Gather", [self._weight(f"{name}.scale", rounded.scale), "token"], f"{name}.scaled", axis=0)
        self._node("Mul", [self._node("Cast", [row], f"{name}.float", to=TensorProto.FLOAT), scale], name)

    def _weight(self, name: str, value: Any) -> str:
        self.weights[name] = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        return name

    def _node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, inputs, [output], **attributes))
        return output

    def finish(self, graph: onnx.GraphProto) -> None:
        nodes = list(self.nodes)
        read = {value for node in nodes for value in node.input}
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.weights.items() if name in read
        )


def count_products(graph: onnx.GraphProto) -> dict[str, int]:
    """How many products a graph, with the graphs in it, computes in each precision."""
    kinds = {"MatMul": "fp32", "Gemm": "fp32", "MatMulInteger": "int8", "MatMulNBits": "int4"}
    counts = dict.fromkeys(("fp32", "int8", "int4"), 0)
    for node in graph.node:
        if node.op_type in kinds:
            counts[kinds[node.op_type]] += 1
        for attribute in node.attribute:
            if attribute.HasField("g"):
                for kind, count in count_products(attribute.g).items():
                    counts[kind] += count
    return counts
