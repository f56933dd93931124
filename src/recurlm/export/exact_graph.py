"""Rewrite the arithmetic between a quantized graph's products to exact IEEE 754 operations, operator by operator.

Integer products are exact, and so are sums and products of two numbers in fp32. What is left are functions that each
runtime approximates in its own way, and sums over an axis, which each adds up in an order of its own. Both become the
nodes that exact.py spells out, and verify/quantized.py does the same operations in PyTorch. An operator that is in
neither list is an error: a bundle never holds arithmetic that differs from machine to machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

from recurlm.errors import InputError
from recurlm.export import exact
from recurlm.export.rewriter import Rewriter, Shape, ancestors, attribute, known_types

# Rounded by the standard, or not arithmetic at all.
STANDARD = """Abs Add And ArgMax ArgMin Cast CastLike Ceil Clip Concat Constant ConstantOfShape DequantizeLinear
    Div Equal Expand Flatten Floor Gather GatherElements GatherND Greater GreaterOrEqual Identity LeakyRelu Less
    LessOrEqual MatMulInteger Max Min Mod Mul Neg Not OneHot Or Pad QuantizeLinear Range ReduceMax ReduceMin
    Relu Reshape Round ScatterElements ScatterND Shape Sign Size Slice Split Sqrt Squeeze Sub Tile TopK
    Transpose Trilu Unsqueeze Where Xor"""
APPROXIMATED = """Cos CumSum Exp Gemm InstanceNormalization LayerNormalization Log LogSoftmax MatMul Pow
    Reciprocal ReduceL2 ReduceLogSumExp ReduceMean ReduceSum ReduceSumSquare Sigmoid Sin Softmax Softplus Tanh"""
EXACT = frozenset(STANDARD.split())
# Not folded by the exporter, which would compute them by numpy: weights pass through the exact functions as well.
REWRITTEN = frozenset(APPROXIMATED.split())

Pointwise = Callable[[exact.Arithmetic[str], str], str]
Along = Callable[[exact.Arithmetic[str], str, int, int], str]
POINTWISE: dict[str, Pointwise] = {
    "Tanh": exact.tanh,
    "Sigmoid": exact.sigmoid,
    "Exp": exact.exp,
    "Softplus": exact.softplus,
    "Sin": exact.sin,
    "Cos": exact.cos,
}
REDUCED: dict[str, Along] = {
    "ReduceSum": exact.total,
    "ReduceMean": exact.mean,
    "ReduceSumSquare": exact.sum_of_squares,
    "ReduceL2": exact.length,
    "ReduceLogSumExp": exact.log_sum_exp,
}


def rewrite(graph: onnx.GraphProto, inexact: frozenset[str] = frozenset()) -> None:
    """Rewrite a graph in place.

    Args:
        inexact: outputs whose log-softmax stays the runtime's own, where no other output hangs on it.

    Raises:
        InputError: an operator has no exact form.
    """
    _Exact(graph, inexact).run()


class _Exact(Rewriter, exact.Arithmetic[str]):
    """Writes nodes; itself an `exact.Arithmetic` on names of values."""

    def __init__(self, graph: onnx.GraphProto, inexact: frozenset[str]) -> None:
        super().__init__(graph)
        self.kinds, self.shapes = known_types(graph)
        self.made = {output: node for node in graph.node for output in node.output}
        self.needed = ancestors(graph, self.public - inexact)
        self.scaled = self._scaled_tanhs()
        self.name = ""
        self.rules: dict[str, Callable[[onnx.NodeProto], str]] = {
            **{kind: partial(self._pointwise, function) for kind, function in POINTWISE.items()},
            **{kind: partial(self._reduced, function) for kind, function in REDUCED.items()},
            "Mul": self._scaled_tanh,
            "Div": lambda node: self.div(*node.input),
            "Reciprocal": lambda node: self.div(1.0, node.input[0]),
            "Log": self._log,
            "Pow": self._pow,
            "Softmax": partial(self._along, exact.softmax),
            "LogSoftmax": partial(self._along, exact.log_softmax),
            "CumSum": self._running_total,
            "LayerNormalization": self._layer_norm,
            "InstanceNormalization": self._instance_norm,
            "MatMul": lambda node: self._matmul(node.input[0], node.input[1]),
        }

    def run(self) -> None:
        for node in self.graph.node:
            if self._stays(node):
                self.nodes.append(node)
            elif node.op_type != "Tanh" or node.output[0] not in self.scaled:
                self._rewrite(node)
        self.finish()

    def _stays(self, node: onnx.NodeProto) -> bool:
        if node.op_type == "LogSoftmax" and self.needed.isdisjoint(node.output):
            return True
        if node.op_type == "Mul":
            return node.input[0] not in self.scaled
        if node.op_type in self.rules:
            return self.kinds.get(node.output[0], TensorProto.FLOAT) not in (TensorProto.FLOAT, TensorProto.DOUBLE)
        if node.op_type not in EXACT:
            raise exact.refusal(f"{node.op_type}, which this cell exports")
        return True

    def _rewrite(self, node: onnx.NodeProto) -> None:
        self.name, before = node.output[0], len(self.nodes)
        result = self.rules[node.op_type](node)
        if len(self.nodes) > before and self.nodes[-1].output[0] == result:
            self.nodes[-1].output[0] = node.output[0]
        else:
            self.nodes.append(helper.make_node("Identity", [result], [node.output[0]]))

    # The operators.

    def _pointwise(self, function: Pointwise, node: onnx.NodeProto) -> str:
        return function(self, node.input[0])

    def _scaled_tanhs(self) -> set[str]:
        """Each tanh in a · tanh(x) + b that is read nowhere else: for powers of two as a, it needs no product.

        Nothing is rounded otherwise: of a sum with ½, or with no factor but 1, no subnormal number is to be seen.
        """
        uses, found = Counter(value for node in self.graph.node for value in node.input), set()

        def made(value: str, kind: str) -> onnx.NodeProto | None:
            node: onnx.NodeProto | None = self.made.get(value)
            if node is None or node.op_type != kind or uses[value] > 1 or value in self.public:
                return None
            return node

        for node in self.graph.node:
            product = made(node.input[0], "Mul") if node.op_type == "Add" else None
            if product is None or made(product.input[0], "Tanh") is None:
                continue
            a, b = (self.weights.get(values[1]) for values in (product.input, node.input))
            if a is not None and b is not None:
                halves = (np.frexp(a)[0] == 0.5) & (np.abs(b) >= 2.0**-20)
                if ((a == 1) | halves).all():
                    found.add(product.input[0])
        return found

    def _scaled_tanh(self, node: onnx.NodeProto) -> str:
        factor = np.asarray(self.weights[node.input[1]], np.float32)
        numerator, constant = (
            self.weight(f"{self.name}.{name}", factor * np.float32(value))
            for name, value in (("numerator", exact.TANH_A), ("constant", exact.TANH_C))
        )
        x: str = self.made[node.input[0]].input[0]
        return exact.scaled_tanh(self, x, numerator, constant)

    def _along(self, function: Along, node: onnx.NodeProto) -> str:
        x = node.input[0]
        axis = self._axis(x, attribute(node, "axis", -1))
        return function(self, x, axis, self._size(x, axis))

    def _reduced(self, function: Along, node: onnx.NodeProto) -> str:
        x = node.input[0]
        axes = self.weights[node.input[1]].tolist() if len(node.input) > 1 and node.input[1] else []
        if len(axes) != 1:
            raise exact.refusal(f"{node.op_type} over {len(axes) or 'all'} axes")
        axis = self._axis(x, axes[0])
        result = function(self, x, axis, self._size(x, axis))
        return result if attribute(node, "keepdims", 1) else self._op("Squeeze", result, self._integers([axis]))

    def _running_total(self, node: onnx.NodeProto) -> str:
        x: str = node.input[0]
        axis = self._axis(x, int(self.weights[node.input[1]].item()))
        if attribute(node, "exclusive", 0) or attribute(node, "reverse", 0):
            raise exact.refusal("a CumSum that is exclusive or reversed")
        return exact.running_total(self, x, axis, self._size(x, axis))

    def _log(self, node: onnx.NodeProto) -> str:
        before = self.made.get(node.input[0])
        if before is not None and before.op_type == "Sigmoid":  # as torch's exporter writes logsigmoid
            return exact.log_sigmoid(self, str(before.input[0]))
        return exact.log(self, str(node.input[0]))

    def _pow(self, node: onnx.NodeProto) -> str:
        exponent = self.weights[node.input[1]] if node.input[1] in self.weights else np.zeros(2)
        if exponent.size != 1 or float(exponent.item()) not in exact.POWERS:
            raise exact.refusal(exact.OTHER_POWERS)
        x: str = node.input[0]
        return exact.power(self, x, float(exponent.item()))

    def _layer_norm(self, node: onnx.NodeProto) -> str:
        x = node.input[0]
        if self._axis(x, attribute(node, "axis", -1)) != -1:
            raise exact.refusal("LayerNormalization over several axes")
        y = exact.normalize(self, x, -1, self._size(x, -1), attribute(node, "epsilon", 1e-5))
        y = self.mul(y, node.input[1])
        return self.add(y, node.input[2]) if len(node.input) > 2 and node.input[2] else y

    def _instance_norm(self, node: onnx.NodeProto) -> str:
        x, scale, bias = node.input
        if len(self._shape(x)) != 3:
            raise exact.refusal(f"InstanceNormalization with {len(self._shape(x))} axes")
        y = exact.normalize(self, x, -1, self._size(x, -1), attribute(node, "epsilon", 1e-5))
        last = self._integers([-1])
        return self.add(self.mul(y, self._op("Unsqueeze", scale, last)), self._op("Unsqueeze", bias, last))

    def _matmul(self, x: str, y: str) -> str:
        if min(len(self._shape(x)), len(self._shape(y))) < 2:
            raise exact.refusal("a product with a vector")
        size = self._size(x, -1)
        if size == 1:
            return self.mul(x, y)
        pairs = self.mul(self._op("Unsqueeze", x, self._integers([-1])), self._op("Unsqueeze", y, self._integers([-3])))
        return self._op("Squeeze", exact.total(self, pairs, -2, size), self._integers([-2]))

    # `exact.Arithmetic`, and nodes, constants and shapes.

    def op(self, kind: str, *operands: str | float) -> str:
        if kind == "Abs" and isinstance(operands[0], str) and self._is_square(operands[0]):
            return operands[0]
        return self._op(kind, *map(self._number, operands))

    def _is_square(self, value: str) -> bool:
        node = next((node for node in reversed(self.nodes) if value in node.output), None)
        return node is not None and node.op_type == "Mul" and node.input[0] == node.input[1]

    def div(self, a: str | float, b: str | float) -> str:
        """1 / b becomes −(−1 / b): where c · (1 / b) stands, onnxruntime would put c / b, which is rounded once."""
        one, divisor = self._number(a), self._number(b)
        constant = self.weights.get(one)
        if constant is None or constant.dtype != np.float32 or (constant != 1).any():
            return self._op("Div", one, divisor)
        return self._op("Neg", self._op("Div", self.weight(f"{one}.negative", -constant), divisor))

    def along(self, kind: str, x: str, axis: int, *sizes: int) -> str:
        if kind == "Pad":
            return self._op(kind, x, self._integers([*sizes]), self._number(0.0), self._integers([axis]))
        return self._op(kind, x, self._integers([axis]), keepdims=1)

    def cut(self, x: str, axis: int, sizes: list[int]) -> list[str]:
        outputs = [self._new(f"cut{part}.") for part in range(len(sizes))]
        self.nodes.append(helper.make_node("Split", [x, self._integers(sizes)], outputs, axis=axis))
        return outputs

    def _op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        return self.node(kind, inputs, self._new(kind.lower()), **attributes)

    def _new(self, kind: str) -> str:
        return f"{self.name}.{kind}{len(self.nodes)}"

    def _number(self, value: str | float) -> str:
        return value if isinstance(value, str) else self.weight(f"exact.{np.float32(value)}", np.float32(value))

    def _integers(self, values: list[int]) -> str:
        return self.weight(f"exact.{'_'.join(map(str, values))}", np.array(values, np.int64))

    def _shape(self, value: str) -> Shape:
        if value not in self.shapes:
            raise InputError(f"int8 and int4: the shape of {value} is not known, and a sum over an axis needs it")
        return self.shapes[value]

    def _axis(self, value: str, axis: int) -> int:
        """An axis counted from the end."""
        return axis if axis < 0 else axis - len(self._shape(value))

    def _size(self, value: str, axis: int) -> int:
        size = self._shape(value)[axis]
        if not isinstance(size, int):
            raise exact.refusal(f"a sum of {value} over axis {axis}, whose size is not fixed")
        return size
