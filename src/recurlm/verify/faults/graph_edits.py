"""Change one thing in an ONNX graph: what the catalogue of planted faults is written in."""

from __future__ import annotations

from collections.abc import Callable, Iterator, MutableSequence, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, helper, numpy_helper

from recurlm.export.rewriter import subgraphs

Test = Callable[[NodeProto], bool]


class NotHereError(Exception):
    """The part has nothing of the kind that a fault changes."""


class Part:
    """A graph of a model, or the body of one of its loops, with the branches in it but not the loops."""

    def __init__(self, model: onnx.ModelProto, loop: int | None = None) -> None:
        self.model = model
        self.graph = model.graph if loop is None else _bodies(model.graph)[loop]

    # Reading.

    def find(self, kind: str, test: Test = lambda node: True) -> NodeProto:
        """The first node of a kind that passes a test."""
        return self.all(kind, test)[0]

    def all(self, kind: str, test: Test = lambda node: True) -> list[NodeProto]:
        """All nodes of a kind that pass a test; at least one."""
        nodes = [node for _, node in _walk(self.graph) if node.op_type == kind and test(node)]
        if not nodes:
            raise NotHereError(f"no {kind}")
        return nodes

    def makes(self, value: str) -> NodeProto:
        """The node that makes a value: by its whole name, or by the name that it had when it was traced."""
        for graph in (self.graph, self.model.graph):
            for _, node in _walk(graph):
                if any(name == value or name.startswith(f"{value}.") for name in node.output):
                    return node
        raise NotHereError(f"nothing makes {value}")

    def reader(self, value: str, kind: str) -> NodeProto:
        """The first node of a kind that reads a value."""
        return self.find(kind, lambda node: value in node.input)

    def constant(self, name: str) -> np.ndarray[Any, Any] | None:
        """The value of an initializer that the part sees."""
        weights = (*self.graph.initializer, *self.model.graph.initializer)
        return next((numpy_helper.to_array(weight) for weight in weights if weight.name == name), None)

    def rank(self, name: str) -> int | None:
        """The rank of an initializer; None for what is none."""
        value = self.constant(name)
        return None if value is None else value.ndim

    def depends_on_state(self, value: str) -> bool:
        """Whether a value is computed from more than the token that is read."""
        begins = 0 if self.graph is self.model.graph else 2  # a body has the trip's number, and a condition
        states = {each.name for each in self.graph.input[begins:] if not each.name.startswith("token")}
        makers = {name: node for _, node in _walk(self.graph) for name in node.output}
        waiting, seen = [value], set()
        while waiting:
            name = waiting.pop()
            if name in states:
                return True
            if name in makers and name not in seen:
                waiting += makers[name].input
            seen.add(name)
        return False

    # Changing.

    def set(self, node: NodeProto, index: int, value: np.ndarray[Any, Any]) -> None:
        """Let one input of one node be a constant."""
        node.input[index] = self.weight(value)

    def scale(self, node: NodeProto, index: int, factor: float | np.floating[Any]) -> None:
        """Multiply a constant that a node reads."""
        value = np.array(self.constant(node.input[index]))
        self.set(node, index, value * value.dtype.type(factor))

    def weight(self, value: Any) -> str:
        """A new initializer, which no other node reads."""
        name = f"planted{len(self.model.graph.initializer)}"
        self.model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def become(self, node: NodeProto, kind: str, inputs: list[str] | None = None) -> None:
        """Make a node one of another kind, on its own inputs unless others are given."""
        node.op_type = kind
        if inputs is not None:
            del node.input[:]
            node.input.extend(inputs)
            del node.attribute[:]

    def before(self, node: NodeProto, index: int, *nodes: NodeProto) -> None:
        """Put nodes between a node and one of its inputs; the last one's output is read in its place."""
        node.input[index] = nodes[-1].output[0]
        owner, place = self._place(node)
        _insert(owner, place, nodes)

    def after(self, node: NodeProto, kind: str, *others: str) -> None:
        """Put a node, which may read more values, behind a node's first output: all that read it read the new one."""
        owner, place = self._place(node)
        value, new = node.output[0], f"planted.{node.output[0]}"
        if any(result.name == value for result in owner.output):
            raise NotHereError("an output of the graph")
        for _, reader in _walk(owner):
            _rename(reader.input, value, new)
        _insert(owner, place + 1, [helper.make_node(kind, [value, *others], [new])])

    def again(self, first: NodeProto, last: NodeProto) -> dict[str, str]:
        """Repeat the nodes of a graph from one to another, behind the other: the outputs → those of the repetition."""
        (owner, begin), (_, end) = self._place(first), self._place(last)
        copies, names = [], dict[str, str]()
        for node in owner.node[begin : end + 1]:
            copy = NodeProto()
            copy.CopyFrom(node)
            names |= {value: f"planted.{value}" for value in node.output}
            for values in (copy.input, copy.output):
                for place, name in enumerate(values):
                    values[place] = names.get(name, name)
            copies.append(copy)
        _insert(owner, end + 1, copies)
        return names

    def output_is(self, index: int, value: str) -> None:
        """Let an output of the part be another of its values."""
        old, new = self.graph.output[index].name, f"planted.{self.graph.output[index].name}"
        if self.graph is not self.model.graph:
            self.graph.output[index].name = new
        else:  # where names are public, what made the old value gets the new name
            for _, node in _walk(self.graph):
                _rename(node.input, old, new)
                _rename(node.output, old, new)
            old, new = new, old
        self.graph.node.append(helper.make_node("Identity", [value], [new]))

    def _place(self, node: NodeProto) -> tuple[GraphProto, int]:
        for owner, other in _walk(self.graph):
            if other.output[0] == node.output[0]:
                return owner, list(owner.node).index(other)
        raise NotHereError(node.output[0])


Edit = Callable[[Part], None]


def op(kind: str, inputs: list[str], output: str, **attributes: Any) -> NodeProto:
    """A node with one output."""
    return helper.make_node(kind, inputs, [f"planted.{output}"], **attributes)


def _insert(graph: GraphProto, place: int, new: Sequence[NodeProto]) -> None:
    for node in reversed(new):
        graph.node.insert(place, node)


def _rename(values: MutableSequence[str], old: str, new: str) -> None:
    values[:] = [new if name == old else name for name in values]


def _bodies(graph: GraphProto) -> list[GraphProto]:
    return [body for node in graph.node if node.op_type == "Loop" for body in subgraphs(node)]


def _walk(graph: GraphProto) -> Iterator[tuple[GraphProto, NodeProto]]:
    """The nodes of a graph and of its branches, each with the graph that it stands in."""
    for node in graph.node:
        yield graph, node
        if node.op_type == "If":
            for branch in subgraphs(node):
                yield from _walk(branch)
