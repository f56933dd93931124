"""Planted faults of the arithmetic of a token, in whichever place it is done."""

from __future__ import annotations

import numpy as np
from onnx import NodeProto, TensorProto, helper

from recurlm.verify.faults.graph_edits import Edit, NotHereError, Part, op

LARGER = np.float32(1.01)


def products(part: Part) -> list[NodeProto]:
    """Products with weights, in the graph's order."""

    def is_one(node: NodeProto) -> bool:
        return node.op_type == "MatMulInteger" or (node.op_type in ("MatMul", "Gemm") and part.rank(node.input[1]) == 2)

    nodes = [node for node in part.graph.node if is_one(node)]
    if not nodes:
        raise NotHereError("no product")
    return nodes


def weight_of(part: Part, product: NodeProto) -> None:
    """The largest weight of a column 1 % larger; in whole numbers by one step.

    The column in the middle: the first ones may be of tokens that are never drawn.
    """
    node, index = product, 1
    while part.constant(node.input[index]) is None:  # int4: what unpacks it
        node, index = part.makes(node.input[index]), 0
    value = np.array(part.constant(node.input[index]))
    size = np.abs(value.astype(np.float64) - (128 if value.dtype == np.uint8 else 0))  # uint8: two of 4 bits
    column = value.shape[1] // 2
    place = (int(np.argmax(size[:, column])), column)
    if value.dtype == np.uint8:
        step = -1 if value[place] % 16 else 1  # in a byte of two weights, of one of them
        value[place] = int(value[place]) + step
    elif value.dtype == np.int8:
        value[place] -= np.sign(value[place])
    else:
        value[place] *= LARGER
    part.set(node, index, value)


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
    added = [set(node.input) for node in part.graph.node if node.op_type == "Add"]  # halves of a sum have no order

    def of_gates(split: NodeProto) -> bool:
        sizes = part.constant(split.input[1]) if len(split.input) > 1 else None
        alike = sizes is None or (len(sizes) > 1 and sizes[0] == sizes[1])
        return alike and len(split.output) > 1 and set(split.output[:2]) not in added

    split = part.find("Split", of_gates)
    split.output[0], split.output[1] = split.output[1], split.output[0]


def bias_dropped(part: Part) -> None:
    """Of the first product that has one: in whole numbers, after the scale."""
    values = [product.output[0] for product in products(part)]
    values += [
        part.reader(part.reader(product.output[0], "Cast").output[0], "Mul").output[0]
        for product in products(part)
        if product.op_type == "MatMulInteger"
    ]
    splits = [node for node in part.graph.node if node.op_type == "Split" and node.input[0] in values]
    values += [value for split in splits for value in split.output]
    part.scale(part.find("Add", lambda node: node.input[0] in values and part.rank(node.input[1]) == 1), 1, 0)


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


def rounding_half_up(part: Part) -> None:
    """Of what depends on the state: what follows from a token alone may have no half."""
    rounding = part.find("QuantizeLinear", lambda node: part.depends_on_state(node.input[0]))
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
    rounding.attribute.append(helper.make_attribute("to", TensorProto.UINT8))
    part.before(rounding, 0, *nodes)


def addition_before_the_scale(part: Part) -> None:
    """b added to s·n as s·(n + b/s): the same but for rounding."""
    scaled = part.find("Mul", lambda node: part.rank(node.input[1]) == 1)
    add = part.reader(scaled.output[0], "Add")
    bias = add.input[1] if add.input[0] == scaled.output[0] else add.input[0]
    whole, scale = scaled.input
    part.become(add, "Mul", ["planted.sum", scale])
    part.before(add, 0, op("Div", [bias, scale], "bias"), op("Add", [whole, "planted.bias"], "sum"))


def coefficient_of_an_exact_function(part: Part) -> None:
    clip = part.find("Clip", lambda node: len(node.input) == 3 and part.rank(node.input[1]) == 0)
    square = part.find("Mul", lambda node: list(node.input) == [clip.output[0]] * 2)
    part.scale(part.reader(square.output[0], "Add"), 1, 1.0001)


def sum_off_its_grid(part: Part) -> None:
    """Of numbers that are not rounded before: it hangs on the order in which they are added up."""
    total, add = _sum_on_a_grid(part)
    total.input[0] = add.input[0]


def coarser_grid(part: Part) -> None:
    _, add = _sum_on_a_grid(part)
    part.scale(part.makes(add.input[1]), 1, 2)


def _sum_on_a_grid(part: Part) -> tuple[NodeProto, NodeProto]:
    """A sum, and what adds the offset that rounds its numbers."""
    for total in part.all("ReduceSum"):
        sub = next((node for node in part.all("Sub") if node.output[0] == total.input[0]), None)
        if sub is not None:
            return total, part.makes(sub.input[0])
    raise NotHereError("no sum on a grid")


ARITHMETIC: dict[str, Edit] = {
    "one recurrent weight": lambda part: weight_of(part, products(part)[0]),
    "one weight of the last product": lambda part: weight_of(part, products(part)[-1]),
    "scale of one column": scale_of_one_column,
    "two gates swapped": two_gates_swapped,
    "bias dropped": bias_dropped,
}
QUANTIZED: dict[str, Edit] = {
    "zero point": lambda part: part.set(products(part)[0], 2, np.array(127, np.uint8)),
    "scale of the inputs": lambda part: part.scale(part.find("QuantizeLinear"), 1, LARGER),
    "rounding half up": rounding_half_up,
    "addition before the scale": addition_before_the_scale,
    "coefficient of an exact function": coefficient_of_an_exact_function,
    "sum off its grid": sum_off_its_grid,
    "coarser grid of a sum": coarser_grid,
}
