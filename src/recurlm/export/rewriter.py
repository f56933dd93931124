"""What every rewriting of a traced graph needs: its weights, what is known of its values, its new nodes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
Shape = list[int | str]  # what is free in it is a string


class Rewriter:
    """Rewrites a graph in place: it gets `nodes`, and those of the `weights` that they read."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
        self.public = {output.name for output in graph.output}
        self.nodes: list[onnx.NodeProto] = []

    def node(self, kind: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, and return its name."""
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output

    def weight(self, name: str, value: Any) -> str:
        self.weights[name] = np.ascontiguousarray(value) if np.ndim(value) else np.asarray(value)
        return name

    def axes(self, value: str) -> int | None:
        """The rank of a weight; None for any other value."""
        return self.weights[value].ndim if value in self.weights else None

    def finish(self) -> None:
        graph, nodes = self.graph, list(self.nodes)
        read = {value for node in nodes for value in node.input}
        del graph.node[:], graph.initializer[:]
        graph.node.extend(nodes)
        graph.initializer.extend(
            numpy_helper.from_array(value, name) for name, value in self.weights.items() if name in read
        )


def attribute(node: onnx.NodeProto, name: str, default: Any) -> Any:
    return next((helper.get_attribute_value(value) for value in node.attribute if value.name == name), default)


def product_weights(node: onnx.NodeProto, weights: Mapping[str, Array]) -> Array | None:
    """The constant weights [in, out] of a node that is a product with a matrix; None for any other node."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return None
    matrix = weights[node.input[1]]
    scaled = any(attribute(node, name, 1) != 1 for name in ("alpha", "beta"))
    if matrix.ndim != 2 or scaled or attribute(node, "transA", 0):
        return None
    return np.ascontiguousarray(matrix.T if attribute(node, "transB", 0) else matrix)


def key_of(weights: Array) -> str:
    """The key of a product: a hash of its weights."""
    return hashlib.sha256(np.ascontiguousarray(weights).tobytes() + str(weights.shape).encode()).hexdigest()


def known_types(graph: onnx.GraphProto) -> tuple[dict[str, int], dict[str, Shape]]:
    """The element types and shapes that are known of a graph's values."""
    opset = [helper.make_opsetid("", 18)]
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph, opset_imports=opset), data_prop=True)
    kinds: dict[str, int] = {weight.name: weight.data_type for weight in graph.initializer}
    shapes: dict[str, Shape] = {weight.name: list(weight.dims) for weight in graph.initializer}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        tensor = value.type.tensor_type
        kinds[value.name] = tensor.elem_type
        if tensor.HasField("shape"):
            shapes[value.name] = [
                dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim
            ]
    return kinds, shapes


def subgraphs(node: onnx.NodeProto) -> list[onnx.GraphProto]:
    """The body of a loop, the branches of a condition."""
    return [value.g for value in node.attribute if value.HasField("g")]


def ancestors(graph: onnx.GraphProto, outputs: set[str]) -> set[str]:
    """The values that some outputs are computed from, these among them."""
    needed = set(outputs)
    for node in reversed(graph.node):
        if needed.intersection(node.output):
            needed.update(node.input)
    return needed


def with_outputs(graph: onnx.GraphProto, outputs: list[str]) -> onnx.GraphProto:
    """What of a graph some of its outputs are computed by."""
    needed = ancestors(graph, set(outputs))
    part = onnx.GraphProto(name=graph.name, input=graph.input)
    part.node.extend(node for node in graph.node if needed.intersection(node.output))
    part.initializer.extend(weight for weight in graph.initializer if weight.name in needed)
    part.output.extend(output for output in graph.output if output.name in outputs)
    return part
