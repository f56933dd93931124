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
    """Rewrite a graph in place, after quantize.py has written its products. In fp32 it does not pay."""
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
    """The nodes of a quantized product, from the rounding of its input to the scaling of its sums."""

    round: onnx.NodeProto
    multiply: onnx.NodeProto
    cast: onnx.NodeProto
    scale: onnx.NodeProto

    @property
    def nodes(self) -> tuple[onnx.NodeProto, ...]:
        return self.round, self.multiply, self.cast, self.scale


class _Joiner(Rewriter):
    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__(graph)
        self.uses = Counter(value for node in graph.node for value in node.input)
        self.readers = {value: node for node in graph.node for value in node.input}

    def run(self) -> None:
        alike: dict[tuple[str, bytes], list[Product]] = defaultdict(list)  # by the value, and how it is rounded
        for node in self.graph.node:
            if node.op_type == "QuantizeLinear" and (product := self._product(node)) is not None:
                alike[node.input[0], self.weights[node.input[1]].tobytes()].append(product)
        instead: dict[str, list[onnx.NodeProto]] = {}
        for products in alike.values():
            if len(products) > 1:
                instead |= {node.output[0]: [] for product in products for node in product.nodes}
                instead[products[0].round.output[0]] = self._joined(products)
        if not instead:
            return
        # Weights that are unpacked from 4 bits come first: those of all products are read by the one.
        constant = constants(self.graph.node, frozenset(self.weights))
        nodes = sorted(self.graph.node, key=lambda node: not constant.issuperset(node.output))
        self.nodes = [new for node in nodes for new in instead.get(node.output[0], [node])]
        self.finish()

    def _product(self, node: onnx.NodeProto) -> Product | None:
        """The product whose input a node rounds; None where something else reads what lies in between."""
        nodes = [node]
        for kind in ("MatMulInteger", "Cast", "Mul"):
            value = nodes[-1].output[0]
            reader = self.readers.get(value)
            if reader is None or reader.op_type != kind or self.uses[value] > 1:
                return None
            nodes.append(reader)
        return Product(*nodes)

    def _joined(self, products: list[Product]) -> list[onnx.NodeProto]:
        """The nodes that take the place of all of them."""
        first, results = products[0], [product.scale.output[0] for product in products]
        name, self.nodes = f"{results[0]}.joined", []
        weights = self._beside(f"{name}.weight", [product.multiply.input[1] for product in products])
        scales = [self.weights[product.scale.input[1]] for product in products]
        self.nodes.append(first.round)
        self.node("MatMulInteger", [first.round.output[0], weights, first.multiply.input[2]], first.multiply.output[0])
        self.nodes.append(first.cast)
        self.node("Mul", [first.cast.output[0], self.weight(f"{name}.scale", np.concatenate(scales))], name)
        sizes = self.weight(f"{name}.widths", np.array([len(scale) for scale in scales], np.int64))
        return [*self.nodes, helper.make_node("Split", [name, sizes], results, axis=-1)]

    def _beside(self, name: str, matrices: list[str]) -> str:
        """8-bit weights side by side; those that a node unpacks are joined by one."""
        if all(matrix in self.weights for matrix in matrices):
            return self.weight(name, np.hstack([self.weights[matrix] for matrix in matrices]))
        return self.node("Concat", matrices, name, axis=1)
