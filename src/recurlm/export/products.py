"""One product in place of several that read the same value, and one sigmoid in place of those of its parts.

    x · A,  x · B,  x · C    becomes    split(x · [A B C])
    σ(a), σ(b), where a, b, c = split(y)    becomes    σ(a), σ(b), _ = split(σ(y))

A cell reads its input through many small matrices, and at batch 1 a node of the graph costs about as much as such a
product. In int8 and int4 no bit changes: columns of a product do not see each other, nor do the numbers of a sigmoid.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from recurlm.export.quantize import constants
from recurlm.export.rewriter import Rewriter, attribute

FUNCTIONS = ("Sigmoid", "Tanh")


def join_products(graph: onnx.GraphProto) -> None:
    """Rewrite a graph in place: in fp32, or after quantize.py has written its products."""
    _Joiner(graph).run()


def join_functions(graph: onnx.GraphProto) -> None:
    """Rewrite a graph in place, after `join_products` and before exact_graph.py spells out its functions."""
    for split in [node for node in graph.node if node.op_type == "Split" and len(node.input) > 1]:
        for kind in FUNCTIONS:
            readers = {
                node.input[0]: node.output[0]
                for node in graph.node
                if node.op_type == kind and node.input[0] in split.output
            }
            if len(readers) > 1:
                _join_readers(graph, split, kind, readers)


def _join_readers(graph: onnx.GraphProto, split: onnx.NodeProto, kind: str, results: dict[str, str]) -> None:
    """Compute a function of the whole, behind the split; `results` has its values by those of the split."""
    name = f"{split.output[0]}.{kind}"
    parts = [results.get(part, f"{name}.of.{part}") for part in split.output]
    joined = [
        helper.make_node(kind, [split.input[0]], [name]),
        helper.make_node("Split", [name, split.input[1]], parts, axis=attribute(split, "axis", 0)),
    ]
    nodes, done = [], set(results.values())
    for node in graph.node:
        nodes += [] if node.output[0] in done else [node]
        nodes += joined if node.output[:] == split.output[:] else []
    del graph.node[:]
    graph.node.extend(nodes)


@dataclass(frozen=True)
class Product:
    """The nodes of a product with weights: MatMul; or QuantizeLinear, MatMulInteger, Cast and Mul."""

    nodes: list[onnx.NodeProto]
    reads: tuple[str, ...]  # the value, and the scale that it is rounded by

    @property
    def result(self) -> str:
        return str(self.nodes[-1].output[0])


class _Joiner(Rewriter):
    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__(graph)
        self.uses = Counter(value for node in graph.node for value in node.input)
        self.readers = {value: node for node in graph.node for value in node.input}

    def run(self) -> None:
        alike: dict[tuple[str, ...], list[Product]] = defaultdict(list)
        for node in self.graph.node:
            if (product := self._product(node)) is not None:
                alike[product.reads].append(product)
        instead: dict[str, list[onnx.NodeProto]] = {}
        for products in alike.values():
            if len(products) > 1:
                instead |= {node.output[0]: [] for product in products for node in product.nodes}
                instead[products[0].nodes[0].output[0]] = self._joined(products)
        if not instead:
            return
        # Weights that are unpacked from 4 bits come first: those of all products are read by the one.
        constant = constants(self.graph.node, frozenset(self.weights))
        nodes = sorted(self.graph.node, key=lambda node: not constant.issuperset(node.output))
        self.nodes = [new for node in nodes for new in instead.get(node.output[0], [node])]
        self.finish()

    def _product(self, node: onnx.NodeProto) -> Product | None:
        """The product that begins at a node."""
        if node.op_type == "MatMul" and self.axes(node.input[1]) == 2:
            return Product([node], (node.input[0],))
        if node.op_type != "QuantizeLinear":
            return None
        nodes = [node]
        for kind in ("MatMulInteger", "Cast", "Mul"):
            value = nodes[-1].output[0]
            reader = self.readers.get(value)
            if reader is None or reader.op_type != kind or self.uses[value] > 1:
                return None
            nodes.append(reader)
        return Product(nodes, (node.input[0], self.weights[node.input[1]].tobytes().hex()))

    def _joined(self, products: list[Product]) -> list[onnx.NodeProto]:
        """The nodes that take the place of all of them."""
        first, name, self.nodes = products[0].nodes, f"{products[0].result}.joined", []
        if len(first) == 1:
            matrices = [self.weights[product.nodes[0].input[1]] for product in products]
            widths = [matrix.shape[1] for matrix in matrices]
            self.node("MatMul", [first[0].input[0], self.weight(f"{name}.weight", np.hstack(matrices))], name)
        else:
            scales = [self.weights[product.nodes[3].input[1]] for product in products]
            widths = [len(scale) for scale in scales]
            rounded, total, cast, _ = first
            weights = self._beside(f"{name}.weight", [product.nodes[1].input[1] for product in products])
            self.nodes.append(rounded)
            self.node("MatMulInteger", [rounded.output[0], weights, total.input[2]], total.output[0])
            self.nodes.append(cast)
            self.node("Mul", [cast.output[0], self.weight(f"{name}.scale", np.concatenate(scales))], name)
        sizes = self.weight(f"{name}.widths", np.array(widths, np.int64))
        return [*self.nodes, helper.make_node("Split", [name, sizes], [each.result for each in products], axis=-1)]

    def _beside(self, name: str, matrices: list[str]) -> str:
        """8-bit weights side by side; those that a node unpacks are joined by one."""
        if all(matrix in self.weights for matrix in matrices):
            return self.weight(name, np.hstack([self.weights[matrix] for matrix in matrices]))
        return self.node("Concat", matrices, name, axis=1)
