"""Fewer bytes and fewer nodes for one token: the sums of products in a traced graph, brought into one form.

What a cell computes before its nonlinearities is a sum: products of its input and its states with weights, and biases,
in whatever order its equations have them. Here every such sum becomes

    table[token] + concat(a, b, …) · weights          or, where nothing hangs on the token alone,
    concat(a, b, …) · weights + bias

- What depends on the token alone, such as the embedding's product with layer 0's weights, is computed for the whole
  vocabulary here and now. One row of that table is left to read: for layer 0 of an LSTM 4 · hidden numbers, in place of
  embedding × 4 · hidden.
- Products of one sum become one product with the weights stacked.

No variant is named: the form is found in the graph.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

Array = np.ndarray[Any, Any]
Origins = dict[str, list[Array]]  # a new weight's name → the weights that were stacked, or met the table, to make it


@dataclass(frozen=True)
class Row:
    """A value that depends on the token alone."""

    table: Array  # [vocabulary, width]
    node: onnx.NodeProto  # that makes it in the graph as it was
    product: Array | None = None  # the weights that the embedding met; without any there is nothing to save


@dataclass(frozen=True)
class Sum:
    """A sum whose nodes are deferred."""

    products: list[tuple[str, Array]] = field(default_factory=list)  # (value, weights[in, out])
    row: Array | None = None  # table[vocabulary, out]
    row_product: Array | None = None
    bias: Array | None = None
    others: list[str] = field(default_factory=list)

    def __add__(self, other: Sum) -> Sum:
        return Sum(
            self.products + other.products,
            _plus(self.row, other.row),
            other.row_product if self.row_product is None else self.row_product,
            _plus(self.bias, other.bias),
            self.others + other.others,
        )


def simplify(graph: onnx.GraphProto, largest_table: int) -> Origins:
    """Rewrite a traced graph in place, and say what its new weights were made of.

    Args:
        graph: its weights are initializers, and its input `token` holds the tokens.
        largest_table: in bytes; a table that would be larger stays a product.
    """
    return _Rewriter(graph, largest_table).run()


class _Rewriter:
    def __init__(self, graph: onnx.GraphProto, largest_table: int) -> None:
        self.graph = graph
        self.largest_table = largest_table
        self.weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
        self.uses = Counter(value for node in graph.node for value in node.input)
        self.uses.update(output.name for output in graph.output)
        self.shapes = _shapes(graph)
        self.rows: dict[str, Row] = {}
        self.sums: dict[str, Sum] = {}
        self.done: set[str] = set()
        self.nodes: list[onnx.NodeProto] = []
        self.origins: Origins = {}

    def run(self) -> Origins:
        for node in self.graph.node:
            if not self._understood(node):
                for value in node.input:
                    self._write(value)
                self.nodes.append(node)
        for output in self.graph.output:
            self._write(output.name)
        read = {value for node in self.nodes for value in node.input}
        initializers = [numpy_helper.from_array(value, name) for name, value in self.weights.items() if name in read]
        nodes = list(self.nodes)
        del self.graph.node[:], self.graph.initializer[:]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(initializers)
        return self.origins

    def _understood(self, node: onnx.NodeProto) -> bool:
        """Note what a node computes, to be written when it is needed; False for a node to be copied as it is."""
        result = node.output[0] if node.output else ""
        if node.op_type == "Gather" and node.input[1] == "token" and self._axes(node.input[0]) == 2:
            self.rows[result] = Row(self.weights[node.input[0]], node)
        elif node.op_type == "MatMul" and self._axes(node.input[1]) == 2:
            self._product(node, self.weights[node.input[1]])
        elif node.op_type == "Mul" and (row := self._row_and_constant(node)):
            name, constant = row
            old = self.rows[name]
            self.rows[result] = Row(old.table * constant, node, old.product)
        elif node.op_type == "Add":
            return self._add(node)
        else:
            return False
        return True

    def _product(self, node: onnx.NodeProto, weights: Array) -> None:
        value, result = node.input[0], node.output[0]
        row = self.rows.get(value)
        if row is not None and 4 * len(row.table) * weights.shape[1] <= self.largest_table:
            self.rows[result] = Row(row.table @ weights, node, weights)
        else:
            self._write(value)
            self.sums[result] = Sum(products=[(value, weights)])

    def _add(self, node: onnx.NodeProto) -> bool:
        result = node.output[0]
        if row := self._row_and_constant(node):
            name, constant = row
            old = self.rows[name]
            self.rows[result] = Row(old.table + constant, node, old.product)
            return True
        if not any(value in self.sums for value in node.input):
            return False
        left, right = self._term(node.input[0]), self._term(node.input[1])
        if left.products and right.products and not self._alike(left.products[0][0], right.products[0][0]):
            self._write(node.input[1])
            right = Sum(others=[node.input[1]])
        self.sums[result] = left + right
        return True

    def _alike(self, one: str, other: str) -> bool:
        """Whether two values can be concatenated along their last axis: no shape says that they cannot."""
        a, b = self.shapes.get(one), self.shapes.get(other)
        if a is None or b is None:
            return True
        return len(a) == len(b) and not any(
            isinstance(m, int) and isinstance(n, int) and m != n for m, n in zip(a[:-1], b[:-1], strict=True)
        )

    def _term(self, value: str) -> Sum:
        """A value as a part of a sum; what something else reads too is a part for itself."""
        if value in self.sums and self.uses[value] == 1:
            return self.sums[value]
        if value in self.rows and self.rows[value].product is not None:
            return Sum(row=self.rows[value].table, row_product=self.rows[value].product)
        if self._axes(value) == 1:
            return Sum(bias=self.weights[value])
        self._write(value)
        return Sum(others=[value])

    def _row_and_constant(self, node: onnx.NodeProto) -> tuple[str, Array] | None:
        """The operands of a node that joins a row with a constant that is the same for each token."""
        for row, constant in (tuple(node.input), tuple(reversed(node.input))):
            if row in self.rows and self._axes(constant) in (0, 1):
                return row, self.weights[constant]
        return None

    def _axes(self, value: str) -> int | None:
        return self.weights[value].ndim if value in self.weights else None

    def _write(self, value: str) -> None:
        """Write the nodes of a value that was deferred."""
        if value in self.done:
            return
        self.done.add(value)
        if value in self.rows:
            self._write_row(value, self.rows[value])
        elif value in self.sums:
            self._write_sum(value, self.sums[value])

    def _write_row(self, value: str, row: Row) -> None:
        if row.product is not None:
            self._node("Gather", [self._weight(f"{value}.table", row.table, [row.product]), "token"], value, axis=0)
        else:
            for before in row.node.input:
                self._write(before)
            self.nodes.append(row.node)

    def _write_sum(self, value: str, total: Sum) -> None:
        terms = [self._write_product(value, total.products)] if total.products else []
        if total.row is not None:
            assert total.row_product is not None
            whole = total.row if total.bias is None else total.row + total.bias
            table = self._weight(f"{value}.table", whole, [total.row_product])
            terms.append(self._node("Gather", [table, "token"], f"{value}.row", axis=0))
        elif total.bias is not None:
            terms.append(self._weight(f"{value}.bias", total.bias, []))
        terms += total.others
        for number, term in enumerate(terms[1:], 1):
            terms[0] = self._node("Add", [terms[0], term], f"{value}.sum{number}")
        self.nodes[-1].output[0] = value

    def _write_product(self, name: str, products: list[tuple[str, Array]]) -> str:
        values, parts = [value for value, _ in products], [weights for _, weights in products]
        value = values[0] if len(values) == 1 else self._node("Concat", values, f"{name}.joined", axis=-1)
        weight = self._weight(f"{name}.weight", np.concatenate(parts), parts)
        return self._node("MatMul", [value, weight], f"{name}.product")

    def _weight(self, name: str, value: Array, origins: list[Array]) -> str:
        self.weights[name] = np.ascontiguousarray(value, np.float32)
        self.origins[name] = origins
        return name

    def _node(self, kind: str, inputs: Iterable[str], output: str, **attributes: Any) -> str:
        self.nodes.append(helper.make_node(kind, list(inputs), [output], **attributes))
        return output


def _shapes(graph: onnx.GraphProto) -> dict[str, list[int | str]]:
    """The shapes that are known of a graph's values; what is free in them is a string."""
    model = onnx.shape_inference.infer_shapes(helper.make_model(graph))
    values = (*model.graph.input, *model.graph.value_info, *model.graph.output)
    return {
        value.name: [dim.dim_value if dim.HasField("dim_value") else dim.dim_param for dim in tensor.shape.dim]
        for value in values
        if (tensor := value.type.tensor_type).HasField("shape")
    }


def _plus(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a + b
