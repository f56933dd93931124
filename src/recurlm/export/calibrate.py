"""Calibration statistics: the inputs of a model's products while it reads text."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnxruntime
from jaxtyping import Float
from onnx import TensorProto, helper, numpy_helper

Array = np.ndarray[Any, Any]


@dataclass
class Inputs:
    """Statistics of the inputs x of one product."""

    weights: Float[np.ndarray, "inputs outputs"]
    moments: Float[np.ndarray, "inputs inputs"]  # the sum of x xᵀ
    count: int = 0
    largest: float = 0.0

    def add(self, x: Float[np.ndarray, "*batch inputs"]) -> None:
        x = x.reshape(-1, x.shape[-1])
        self.moments += x.T @ x
        self.count += len(x)
        self.largest = max(self.largest, float(np.abs(x).max()))

    def mean(self) -> Float[np.ndarray, "inputs inputs"]:
        return self.moments / self.count


class Observer:
    """Runs graphs and collects statistics of the inputs of their products. A product is identified by its weights."""

    def __init__(self, opset: int, ir_version: int) -> None:
        self.opset, self.ir_version = opset, ir_version
        self.inputs: dict[str, Inputs] = {}

    def run(
        self,
        graph: onnx.GraphProto,
        calls: Iterable[Mapping[str, Array]],
        carried: Iterable[str] = (),
        collect: str = "",
    ) -> list[Array]:
        """Run a graph call by call.

        Args:
            calls: the inputs of each call, but for the carried ones after the first.
            carried: names of states: the output `next_state.<name>` is the next call's `state.<name>`.
            collect: the name of an output.

        Returns:
            That output of each call.
        """
        watched, products = _watched(graph)
        # Looked up once: a key is a hash of all weights.
        inputs = {output: self._inputs(weights) for output, weights in products.items()}
        model = helper.make_model(
            watched, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=self.ir_version
        )
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        names = [output.name for output in session.get_outputs()]
        state: dict[str, Array] = {}
        collected = []
        for call in calls:
            results = dict(zip(names, session.run(names, {**call, **state}), strict=True))
            state = {f"state.{name}": results[f"next_state.{name}"] for name in carried}
            if collect:
                collected.append(results[collect])
            for output, statistics in inputs.items():
                statistics.add(results[output])
        return collected

    def _inputs(self, weights: Array) -> Inputs:
        key = key_of(weights)
        if key not in self.inputs:
            self.inputs[key] = Inputs(weights, np.zeros((len(weights), len(weights))))
        return self.inputs[key]


def product_weights(node: onnx.NodeProto, weights: Mapping[str, Array]) -> Array | None:
    """The constant weights [in, out] of a node that is a product with a matrix; None for any other node."""
    if node.op_type not in ("MatMul", "Gemm") or node.input[1] not in weights:
        return None
    flags = {attribute.name: attribute for attribute in node.attribute}
    matrix = weights[node.input[1]]
    scaled = any(flags[name].f != 1 for name in ("alpha", "beta") if name in flags)
    if matrix.ndim != 2 or scaled or ("transA" in flags and flags["transA"].i):
        return None
    return np.ascontiguousarray(matrix.T if "transB" in flags and flags["transB"].i else matrix)


def key_of(weights: Array) -> str:
    """The key of a product: a hash of its weights."""
    return hashlib.sha256(np.ascontiguousarray(weights).tobytes() + str(weights.shape).encode()).hexdigest()


def _watched(graph: onnx.GraphProto) -> tuple[onnx.GraphProto, dict[str, Array]]:
    """A copy of a graph with the inputs of its products as outputs too; and by output name the product's weights."""
    watched = onnx.GraphProto()
    watched.CopyFrom(graph)
    weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
    products: dict[str, Array] = {}
    for node in graph.node:
        matrix = product_weights(node, weights)
        if matrix is not None:
            name = f"observed.{len(products)}"
            watched.node.append(helper.make_node("Identity", [node.input[0]], [name]))
            watched.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
            products[name] = matrix
    return watched, products
