"""Planted faults of the arithmetic of a token, in whichever place it is done."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import NodeProto, TensorProto

from recurlm.verify.graph_edits import Edit, NotHereError, Part, op

LARGER = np.float32(1.01)


def products(part: Part) -> list[NodeProto]:
    """Products with weights, in the graph's order."""

    def is_one(node: NodeProto) -> bool:
        return node.op_type == "MatMulInteger" or (node.op_type in ("MatMul", "Gemm") and part.rank(node.input[1]) == 2)

    found = [node for node in part.graph.node if is_one(node)]
    if not found:
        raise NotHereError("no product")
    return found


def weight_of(part: Part, product: NodeProto) -> None:
    """The largest weight 1 % larger; in whole numbers by one step."""
    node, index = product, 1
    while part.constant(node.input[index]) is None:  # int4: what unpacks it
        node, index = part.makes(node.input[index]), 0
    value = np.array(part.constant(node.input[index]))
    size = np.abs(value.astype(np.float64) - (128 if value.dtype == np.uint8 else 0))
    place = np.unravel_index(np.argmax(size), value.shape)
    if value.dtype == np.uint8:
        step = -1 if value[place] % 16 else 1  # in a byte of two weights, of one of them
        value[place] = int(value[place]) + step
    else:
        value[place] *= LARGER
    part.set(node, index, value)


def one_recurrent_weight(part: Part) -> None:
    weight_of(part, products(part)[0])


def one_weight_of_the_last_product(part: Part) -> None:
    weight_of(part, products(part)[-1])


def scale_of_one_column(part: Part) -> None:
    product = products(part)[0]
    if product.op_type == "MatMulInteger":
        scaled = part.reader(part.reader(product.output[0], "Cast").output[0], "Mul")
        column = np.array(part.constant(scaled.input[1]))
        column[len(column) // 2] *= LARGER
        part.set(scaled, 1, column)
        return
    matrix = np.array(part.constant(product.input[1]))
    matrix[:, matrix.shape[1] // 2] *= LARGER
    part.set(product, 1, matrix)


def two_gates_swapped(part: Part) -> None:
    split = part.find("Split", lambda node: len(node.output) > 1)
    split.output[0], split.output[1] = split.output[1], split.output[0]


def bias_dropped(part: Part) -> None:
    add = part.find("Add", lambda node: part.rank(node.input[1]) == 1)
    part.set(add, 1, np.zeros_like(part.constant(add.input[1])))


def table_row(part: Part, token: int) -> None:
    gather = part.find("Gather", lambda node: part.rank(node.input[0]) == 2)
    table = np.array(part.constant(gather.input[0]))
    table[token] *= LARGER
    part.set(gather, 0, table)


def state_not_carried(part: Part, name: str) -> None:
    before = [value.name for value in part.graph.input]
    if f"state.{name}" in before:
        outputs = [value.name for value in part.graph.output]
        part.output_is(outputs.index(f"next_state.{name}"), f"state.{name}")
        return
    value = next(value for value in before if value.startswith(f"{name}."))
    part.output_is(before.index(value) - 1, value)  # a body has the trip's number as well


ARITHMETIC: list[Edit] = [
    one_recurrent_weight, one_weight_of_the_last_product, scale_of_one_column, two_gates_swapped, bias_dropped,
]  # fmt: skip


def zero_point(part: Part) -> None:
    part.set(products(part)[0], 2, np.array(127, np.uint8))


def scale_of_the_inputs(part: Part) -> None:
    rounding = part.find("QuantizeLinear")
    part.set(rounding, 1, np.array(part.constant(rounding.input[1])) * LARGER)


def rounding_half_up(part: Part) -> None:
    rounding = part.find("QuantizeLinear")
    x, scale, _ = rounding.input
    half, low, high, centre = (part.weight(np.float32(value)) for value in (0.5, -128, 127, 128))
    nodes = [
        op("Div", [x, scale], "quotient"),
        op("Add", ["planted.quotient", half], "raised"),
        op("Floor", ["planted.raised"], "whole"),
        op("Clip", ["planted.whole", low, high], "clipped"),
        op("Add", ["planted.clipped", centre], "centred"),
    ]
    part.become(rounding, "Cast", [x])
    rounding.attribute.append(onnx.helper.make_attribute("to", TensorProto.UINT8))
    part.before(rounding, 0, *nodes)


def addition_before_the_scale(part: Part) -> None:
    """b added to s·n as s·(n + b/s): the same but for rounding."""
    scaled = part.find("Mul", lambda node: node.op_type == "Mul" and (part.rank(node.input[1]) == 1))
    add = part.reader(scaled.output[0], "Add")
    bias = add.input[1] if add.input[0] == scaled.output[0] else add.input[0]
    whole, scale = scaled.input
    add_inputs = [op("Div", [bias, scale], "bias"), op("Add", [whole, "planted.bias"], "sum")]
    part.become(add, "Mul", ["planted.sum", scale])
    part.before(add, 0, *add_inputs)


def coefficient_of_an_exact_function(part: Part) -> None:
    clip = part.find("Clip", lambda node: len(node.input) == 3 and part.rank(node.input[1]) == 0)
    square = part.find("Mul", lambda node: list(node.input) == [clip.output[0]] * 2)
    add = part.reader(square.output[0], "Add")
    part.set(add, 1, np.array(part.constant(add.input[1])) * np.float32(1.0001))


QUANTIZED: list[Edit] = [
    zero_point, scale_of_the_inputs, rounding_half_up, addition_before_the_scale, coefficient_of_an_exact_function,
]  # fmt: skip
