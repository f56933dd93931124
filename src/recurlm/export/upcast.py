"""The arithmetic between a quantized graph's products in double precision: all machines then round to the same numbers.

Integer products are exact. sigmoid and tanh are not: each build of onnxruntime approximates them in its own way, and
their last digits differ. So do sums of floats, which each build adds up in its own order. Where such a number lies on
the edge between two int8 values, two machines part, and a recurrence never lets them meet again: after a hundred tokens
or so they generate different texts. A double has 29 bits more; the difference is as much smaller, and so is the chance
that it is seen.

States, and all that goes in and out of a graph, stay in fp32.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

APPROXIMATED = {"Sigmoid", "Tanh", "Exp", "Log", "Pow", "Softplus", "Softmax"}
REDUCTIONS = {"ReduceMean", "ReduceSum", "ReduceSumSquare", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "CumSum"}
SUMS = {"MatMul", "Gemm", "Einsum", "LayerNormalization"} | REDUCTIONS  # their order is each machine's own
UPCAST = APPROXIMATED | SUMS
NO_DOUBLES = {"Erf", "Gelu", "Elu", "Selu", "Celu", "Mish", "Conv", "InstanceNormalization"}  # in onnxruntime
ARITHMETIC = {
    "Add",
    "Sub",
    "Mul",
    "Div",
    "Reciprocal",
    "Neg",
    "Abs",
    "Relu",
    "Max",
    "Min",
    "Sqrt",
}  # IEEE 754: exact in any precision
HALF = "upcast.half"
REARRANGING = {"Split", "Slice", "Reshape", "Transpose", "Squeeze", "Unsqueeze", "Identity"}  # of their first input


def upcast(graph: onnx.GraphProto) -> None:
    """Rewrite a graph in place: approximated functions, sums, and the arithmetic that follows from them are double.

    It is so until something else reads it: a rounding, a choice, an output of the graph.
    """
    _Upcast(graph).run()


class _Upcast:
    def __init__(self, graph: onnx.GraphProto) -> None:
        self.graph = graph
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.doubles: dict[str, str] = {}  # name of a value → name of the same in double precision
        self.floats: set[str] = set()  # values of `doubles` that exist in fp32 too
        self.nodes: list[onnx.NodeProto] = []

    def run(self) -> None:
        wanted = self._wanted()
        for node in self.graph.node:
            given = list(node.input)
            if node.op_type == "Sigmoid":
                self._sigmoid(node)
            elif node.op_type in REDUCTIONS:
                self._copy(node, [self._double(given[0]), *given[1:]], double=True)
            elif node.op_type in UPCAST or (
                node.op_type in ARITHMETIC and any(value in self.doubles for value in given)
            ):
                self._copy(node, [self._double(value) if value else "" for value in given], double=True)
            elif node.op_type in NO_DOUBLES:
                raise ValueError(
                    f"{node.op_type} differs from machine to machine, and onnxruntime has none of doubles: "
                    "this cell needs 'export.portable: false'"
                )
            elif node.op_type in REARRANGING and (given[0] in self.doubles or wanted.intersection(node.output)):
                self._copy(node, [self._double(given[0]), *given[1:]], double=True)
            else:
                self._copy(node, [self._float(value) for value in given], double=False)
        for output in self.graph.output:
            self._float(output.name)
        read = {value for node in self.nodes for value in node.input}
        weights = [weight for name, weight in self.weights.items() if name in read]
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(self.nodes)
        self.graph.initializer.extend(weights)

    def _wanted(self) -> set[str]:
        """What is read in double precision; of what is cut into parts for it the whole: one cast, not many."""
        wanted = {value for node in self.graph.node if node.op_type in UPCAST - REDUCTIONS for value in node.input}
        wanted |= {node.input[0] for node in self.graph.node if node.op_type in REDUCTIONS}
        for node in reversed(self.graph.node):
            if node.op_type in REARRANGING and wanted.intersection(node.output):
                wanted.add(node.input[0])
        return wanted

    def _sigmoid(self, node: onnx.NodeProto) -> None:
        """½ + ½ tanh(x / 2): onnxruntime's tanh of doubles is 2.7 times as quick as its sigmoid of them."""
        self.weights[HALF] = numpy_helper.from_array(np.array(0.5), HALF)
        result = self.doubles[node.output[0]] = f"{node.output[0]}.double"
        value = self._double(node.input[0])
        for kind, inputs, output in (
            ("Mul", [value, HALF], f"{result}.half"),
            ("Tanh", [f"{result}.half"], f"{result}.tanh"),
            ("Mul", [f"{result}.tanh", HALF], f"{result}.scaled"),
            ("Add", [f"{result}.scaled", HALF], result),
        ):
            self.nodes.append(helper.make_node(kind, inputs, [output]))

    def _copy(self, node: onnx.NodeProto, inputs: list[str], double: bool) -> None:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        del copy.input[:]
        copy.input.extend(inputs)
        if double:
            del copy.output[:]
            for value in node.output:
                self.doubles[value] = f"{value}.double"
                copy.output.append(self.doubles[value])
        self.nodes.append(copy)

    def _double(self, value: str) -> str:
        if value not in self.doubles:
            self.doubles[value] = f"{value}.double"
            self.floats.add(value)
            if value in self.weights:
                array = numpy_helper.to_array(self.weights[value]).astype(np.float64)
                self.weights[f"{value}.double"] = numpy_helper.from_array(array, f"{value}.double")
            else:
                self._cast(value, f"{value}.double", TensorProto.DOUBLE)
        return self.doubles[value]

    def _float(self, value: str) -> str:
        if value in self.doubles and value not in self.floats:
            self.floats.add(value)
            self._cast(self.doubles[value], value, TensorProto.FLOAT)
        return value

    def _cast(self, value: str, result: str, kind: int) -> None:
        self.nodes.append(helper.make_node("Cast", [value], [result], to=kind))
