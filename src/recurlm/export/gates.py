"""The gates of a layer in one evaluation: sigmoid(x) = ½ + ½ tanh(x / 2), so that one tanh serves all of them.

    i, f, g, o = split(x);  σ(i), σ(f), tanh(g), σ(o)    becomes    split(b + a ⊙ tanh(a ⊙ x))

with a = ½ and b = ½ for the numbers that a sigmoid reads, a = 1 and b = −0 for those of a tanh. Halving is exact, and
so the first a goes into the scales and the row or bias that x is made of. No bit of any gate changes.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np
import onnx
from onnx import helper

from recurlm.export.rewriter import Array, Rewriter

GATES = ("Sigmoid", "Tanh")


def join_gates(graph: onnx.GraphProto) -> None:
    """Rewrite a graph in place, before exact_graph.py spells out its functions."""
    _Joiner(graph).run()


class _Joiner(Rewriter):
    def __init__(self, graph: onnx.GraphProto) -> None:
        super().__init__(graph)
        self.made = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[onnx.NodeProto]] = defaultdict(list)
        for node in graph.node:
            for value in node.input:
                self.readers[value].append(node)
        self.instead: dict[str, list[onnx.NodeProto]] = {}  # of a node, by its first output

    def run(self) -> None:
        for node in self.graph.node:
            if node.op_type == "Split":
                self._join(node)
        self.nodes = [new for node in self.graph.node for new in self.instead.get(node.output[0], [node])]
        self.finish()

    def _join(self, split: onnx.NodeProto) -> None:
        gates = [self.readers[value] for value in split.output]
        if self.public.intersection(split.output) or any(
            len(readers) != 1 or readers[0].op_type not in GATES for readers in gates
        ):
            return
        x, name = split.input[0], split.output[0]
        width = self._width(x, len(gates))
        if width is None or (len(split.input) > 1 and (self.weights[split.input[1]] != width).any()):
            return
        half = [0.5 if gate.op_type == "Sigmoid" else 1.0 for (gate,) in gates]
        a = np.repeat(np.array(half, np.float32), width)
        b = np.where(a == 1, np.float32(-0.0), a)
        factor = self.weight(f"{name}.halves", a)
        halved = [] if self._halve(x, a) else [helper.make_node("Mul", [x, factor], [f"{name}.halved"])]
        joined = helper.make_node("Split", [f"{name}.gates", *split.input[1:]], [gate.output[0] for (gate,) in gates])
        joined.attribute.extend(split.attribute)
        self.instead[name] = [
            *halved,
            helper.make_node("Tanh", [halved[0].output[0] if halved else x], [f"{name}.tanh"]),
            helper.make_node("Mul", [f"{name}.tanh", factor], [f"{name}.scaled"]),
            helper.make_node("Add", [f"{name}.scaled", self.weight(f"{name}.shift", b)], [f"{name}.gates"]),
            joined,
        ]
        for (gate,) in gates:
            self.instead[gate.output[0]] = []

    def _width(self, x: str, gates: int) -> int | None:
        """Numbers of a gate, where x is a sum of a product and a row or a bias, and all gates are equally wide."""
        node = self.made.get(x)
        while node is not None and node.op_type == "Add":
            node = self.made.get(node.input[0]) or self.made.get(node.input[1])
        if node is None or node.op_type != "Mul" or node.input[1] not in self.weights:
            return None
        scale = self.weights[node.input[1]]
        return len(scale) // gates if scale.ndim == 1 and len(scale) % gates == 0 else None

    def _halve(self, x: str, a: Array) -> bool:
        """Multiply x by `a` where it is made, if only the gates read it; otherwise change nothing."""
        halved: list[tuple[onnx.NodeProto, int, Array]] = []
        waiting = [x]
        while waiting:
            value = waiting.pop()
            node = self.made.get(value)
            if node is None or len(self.readers[value]) != 1 or value in self.public:
                return False
            constants = [index for index, name in enumerate(node.input) if self._is_row(name, a)]
            if node.op_type == "Add":
                halved += [(node, index, self.weights[node.input[index]] * a) for index in constants]
                waiting += [name for index, name in enumerate(node.input) if index not in constants]
            elif constants and (node.op_type == "Mul" or (node.op_type == "Gather" and constants == [0])):
                halved.append((node, constants[0], self.weights[node.input[constants[0]]] * a))
            else:
                return False
        for node, index, values in halved:
            node.input[index] = self.weight(f"{node.output[0]}.halved", values)
        return True

    def _is_row(self, name: str, a: Array) -> bool:
        """Whether a value is constant rows of floats as long as `a`."""
        value = self.weights.get(name)
        return value is not None and value.dtype == np.float32 and value.shape[-1:] == a.shape
