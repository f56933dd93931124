"""Build ONNX graphs from traced ones: inline them, loop over them, branch between them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from recurlm.export.rewriter import subgraphs

SMALL = 2**14  # bytes
Shape = Sequence[int | str]
Carried = dict[str, tuple[str, int, Shape]]  # name → (first value, element type, shape)
Trip = tuple[dict[str, str], list[tuple[str, int, Shape]]]  # what is carried on, and what is collected


class Graph:
    """A graph being built. A subgraph (the body of a Loop, a branch of an If) shares its parent's weights."""

    def __init__(self, parent: Graph | None = None) -> None:
        self.root: Graph = self if parent is None else parent.root  # the outermost graph
        self.nodes: list[onnx.NodeProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        if parent is None:
            self.counter = count(1)
            self.contents: dict[tuple[Any, ...], str] = {}
            self.constants: dict[bytes, list[str]] = {}  # node → its outputs
        self.weights: dict[str, onnx.TensorProto] = {} if parent is None else parent.weights

    def name(self, hint: str) -> str:
        """A name that no other value of the model has."""
        return f"{hint}.{next(self.root.counter)}"

    def input(self, name: str, kind: int, shape: Shape) -> str:
        """Declare an input. None has a default: onnxruntime prints a warning for each that has one."""
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def output(self, value: str, name: str, kind: int, shape: Shape) -> None:
        """Declare an output under its public name."""
        self.nodes.append(helper.make_node("Identity", [value], [name]))
        self.outputs.append(helper.make_tensor_value_info(name, kind, shape))

    def give(self, value: str, kind: int, shape: Shape) -> None:
        """Declare an output of a subgraph, under any name. A value from outside, or given twice, is copied."""
        made = any(value in node.output for node in self.nodes)
        if not made or any(value == output.name for output in self.outputs):
            value = self.op("Identity", value)
        self.outputs.append(helper.make_tensor_value_info(value, kind, shape))

    def constant(self, value: Any, dtype: type[np.generic] = np.int64) -> str:
        """A constant; the same value twice is one initializer."""
        array = np.asarray(value, dtype=dtype)
        name = f"constant.{array.dtype}.{'x'.join(map(str, array.shape))}.{'_'.join(map(str, array.ravel().tolist()))}"
        self.weights.setdefault(name, numpy_helper.from_array(array, name))
        return name

    def weight(self, name: str, value: np.ndarray[Any, Any]) -> str:
        """An array under a name of its own."""
        return self._add_weight(numpy_helper.from_array(value, name))

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output and return that output's name."""
        result = self.name(kind.lower())
        self.nodes.append(helper.make_node(kind, list(inputs), [result], **attributes))
        return result

    def inline(self, graph: onnx.GraphProto, values: Mapping[str, str]) -> dict[str, str]:
        """Copy a traced graph in, reading `values` for its inputs; equal weights are shared.

        What is made of weights alone goes into the outermost graph, once, so that no loop makes it again.

        Returns:
            The traced graph's output names → the values that hold them here.
        """
        names = dict(values)
        for weight in graph.initializer:
            names[weight.name] = self._add_weight(weight)
        constant = {weight.name for weight in graph.initializer}
        for node in graph.node:
            copy = onnx.NodeProto()
            copy.CopyFrom(node)
            del copy.input[:], copy.output[:]
            copy.input.extend(names[value] if value else "" for value in node.input)
            copy.name = ""
            alone = bool(node.input) and constant.issuperset(node.input)
            known = self.root.constants.get(copy.SerializeToString(deterministic=True)) if alone else None
            if known is None:
                known = [self.name(output) if output else "" for output in node.output]
                if alone:
                    self.root.constants[copy.SerializeToString(deterministic=True)] = known
                copy.output.extend(known)
                (self.root if alone else self).nodes.append(copy)
            names |= dict(zip(node.output, known, strict=True))
            constant |= set(node.output) if alone else set()
        return {output.name: names[output.name] for output in graph.output}

    def _add_weight(self, weight: onnx.TensorProto) -> str:
        """Take a weight in, unless one with the same shape and bytes is there already."""
        content = (weight.data_type, tuple(weight.dims), hashlib.sha256(weight.raw_data).digest())
        contents = self.root.contents
        if content not in contents:
            name = weight.name if weight.name not in self.weights else self.name(weight.name)
            self.weights[name] = onnx.TensorProto()
            self.weights[name].CopyFrom(weight)
            self.weights[name].name = name
            contents[content] = name
        return contents[content]

    def loop(
        self,
        trips: str,
        carried: Carried,
        body: Callable[[Graph, str, dict[str, str]], Trip],
        until: str | None = None,
    ) -> tuple[dict[str, str], list[str]]:
        """Run a body `trips` times.

        Args:
            trips: an int64 scalar.
            carried: what goes from one trip to the next.
            body: gets the body's graph, the trip's number and the carried values; returns the new carried values, and
                what is collected from every trip.
            until: the name of a carried boolean; once it is true, no trip follows.

        Returns:
            The carried values after the last trip, and what was collected, stacked along a new first axis.
        """
        inner = Graph(parent=self)
        trip = inner.input(inner.name("trip"), TensorProto.INT64, [])
        condition = inner.input(inner.name("go_on"), TensorProto.BOOL, [])
        values = {key: inner.input(inner.name(key), kind, shape) for key, (_, kind, shape) in carried.items()}
        after, collected = body(inner, trip, values)
        going_on = condition if until is None else inner.op("Not", after[until])
        inner.give(going_on, TensorProto.BOOL, [])
        for key, (_, kind, shape) in carried.items():
            inner.give(after[key], kind, shape)
        for value, kind, shape in collected:
            inner.give(value, kind, shape)
        results = {key: self.name(key) for key in carried}
        stacked = [self.name("stacked") for _ in collected]
        self.nodes.append(
            helper.make_node(
                "Loop",
                # True, and not left out: onnx.reference makes no trip without a condition.
                [trips, self.constant(True, np.bool_), *(first for first, _, _ in carried.values())],
                [*results.values(), *stacked],
                body=self._with_small_weights(inner.proto("body")),
            )
        )
        return results, stacked

    def _with_small_weights(self, body: onnx.GraphProto) -> onnx.GraphProto:
        """Give a loop's body copies of the small weights that it reads: a value from outside costs time on each trip.

        Large ones stay outside, where all loops share them in the file.
        """
        number = self.name("body")
        small = {
            name: f"{name}.{number}"
            for name in sorted(_read_in(body))
            if name in self.weights and len(self.weights[name].raw_data) <= SMALL
        }
        for node in _nodes(body):
            node.input[:] = [small.get(value, value) for value in node.input]
        for name, copy in small.items():
            body.initializer.add().CopyFrom(self.weights[name])
            body.initializer[-1].name = copy
        return body

    def choose(
        self,
        condition: str,
        then: Callable[[Graph], list[str]],
        otherwise: Callable[[Graph], list[str]],
        kinds: Sequence[tuple[int, Shape]],
    ) -> list[str]:
        """Values from either of two branches, of which only one is run.

        Args:
            kinds: element type and shape of each value.
        """
        branches = {}
        for attribute, build in (("then_branch", then), ("else_branch", otherwise)):
            inner = Graph(parent=self)
            for value, (kind, shape) in zip(build(inner), kinds, strict=True):
                inner.give(value, kind, shape)
            branches[attribute] = inner.proto(attribute)
        results = [self.name("if") for _ in kinds]
        self.nodes.append(helper.make_node("If", [condition], results, **branches))
        return results

    def any(self, values: str) -> str:
        """Whether some of the booleans is true, as a scalar."""
        return self.op(
            "Cast", self.op("ReduceMax", self.op("Cast", values, to=TensorProto.INT32), keepdims=0), to=TensorProto.BOOL
        )

    def all(self, values: str) -> str:
        """Whether each of the booleans is true, as a scalar."""
        return self.op("Not", self.any(self.op("Not", values)))

    def top(self, values: str, count: str) -> str:
        """The largest of each row, in descending order; `count` is int64 [1]."""
        largest = self.name("largest")
        self.nodes.append(helper.make_node("TopK", [values, count], [largest, self.name("places")], axis=-1))
        return largest

    def proto(self, name: str) -> onnx.GraphProto:
        """The finished graph; weights stand in the outermost one, where every subgraph sees them."""
        graph = helper.make_graph(self.nodes, name, self.inputs, self.outputs)
        if self.root is self:
            read = _read_in(graph)
            graph.initializer.extend(weight for name, weight in self.weights.items() if name in read)
        return graph


def _nodes(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """The nodes of a graph and of the graphs in it."""
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def _read_in(graph: onnx.GraphProto) -> set[str]:
    return {value for node in _nodes(graph) for value in node.input}


def to_model(graph: onnx.GraphProto, opset: int, ir_version: int, metadata: Mapping[str, str]) -> onnx.ModelProto:
    """A checked model around a graph.

    Raises:
        onnx.checker.ValidationError: the graph is not valid ONNX, or its shapes contradict each other.
    """
    opsets = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=opsets, ir_version=ir_version, producer_name="recurlm")
    helper.set_model_props(model, dict(metadata))
    onnx.checker.check_model(model, full_check=True)
    return model
