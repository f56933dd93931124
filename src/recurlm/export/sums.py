"""Fewer bytes and fewer nodes for one token: the sums of products in a traced graph, brought into one form.

What a cell computes before its nonlinearities is a sum: products of its input and its states with weights, and biases,
in whatever order its equations have them. Here every such sum becomes

    table[token] + concat(a, b, …) · weights          or, where nothing hangs on the token alone,
    concat(a, b, …) · weights + bias

- What depends on the token alone, such as the embedding's product with layer 0's weights, is computed for the whole
  vocabulary here and now. One row of that table is left to read: for layer 0 of an LSTM 4 · hidden numbers, in place of
  embedding × 4 · hidden.
- Products of one sum become one product with the weights stacked.

No variant is named: the form is found in the graph. verify/quantized.py finds the same form while PyTorch computes: a
sum is of products, one row and one bias; whatever else is added to it is an addition of its own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import numpy as np
import onnx

from recurlm.export.rewriter import Array, Rewriter, known_types, product_weights


@dataclass(frozen=True)
class Origin:
    """What a new weight was made of."""

    parts: list[Array]  # the weights that were stacked, or the one that met the embedding
    steps: int = 0  # of a table: how many constants were multiplied with it or added to it since


Origins = dict[str, Origin]  # by the new weight's name


@dataclass(frozen=True)
class Row:
    """A value that depends on the token alone."""

    table: Array  # [vocabulary, width]
    node: onnx.NodeProto  # that makes it in the graph as it was
    product: Array | None = None  # the weights that the embedding met; without any there is nothing to save
    steps: int = 0  # constants multiplied with it or added to it since

    def then(self, table: Array, node: onnx.NodeProto) -> Row:
        """After one more constant."""
        return Row(table, node, self.product, self.steps + 1)


@dataclass(frozen=True)
class Sum:
    """A sum whose nodes are deferred."""

    products: list[tuple[str, Array]] = field(default_factory=list)  # (value, weights[in, out])
    row: Row | None = None
    bias: Array | None = None

    def __add__(self, other: Sum) -> Sum:
        return Sum(self.products + other.products, self.row or other.row, _plus(self.bias, other.bias))


def simplify(graph: onnx.GraphProto, largest_table: int) -> Origins:
    """Rewrite a traced graph in place, and say what its new weights were made of.

    Args:
        graph: its weights are initializers, and its input `token` holds the tokens.
        largest_table: in bytes; a table that would be larger stays a product.
    """
    return _Sums(graph, largest_table).run()


class _Sums(Rewriter):
    def __init__(self, graph: onnx.GraphProto, largest_table: int) -> None:
        super().__init__(graph)
        self.largest_table = largest_table
        self.uses = Counter(value for node in graph.node for value in node.input)
        self.uses.update(output.name for output in graph.output)
        _, self.shapes = known_types(graph)
        self.rows: dict[str, Row] = {}
        self.sums: dict[str, Sum] = {}
        self.done: set[str] = set()
        self.origins: Origins = {}

    def run(self) -> Origins:
        for node in self.graph.node:
            if not self._understood(node):
                for value in node.input:
                    self._write(value)
                self.nodes.append(node)
        for output in self.graph.output:
            self._write(output.name)
        self.finish()
        return self.origins

    def _understood(self, node: onnx.NodeProto) -> bool:
        """Note what a node computes, to be written when it is needed; False for a node to be copied as it is."""
        result = node.output[0] if node.output else ""
        if node.op_type == "Gather" and node.input[1] == "token" and self.axes(node.input[0]) == 2:
            self.rows[result] = Row(self.weights[node.input[0]], node)
        elif node.op_type == "MatMul" and self.axes(node.input[1]) == 2:
            self._product(node, self.weights[node.input[1]])
        elif node.op_type == "Mul" and (row := self._row_and_constant(node)):
            name, constant = row
            self.rows[result] = self.rows[name].then(self.rows[name].table * constant, node)
        elif node.op_type == "Add":
            return self._add(node)
        elif node.op_type == "Gemm":
            return self._gemm(node)
        else:
            return False
        return True

    def _product(self, node: onnx.NodeProto, weights: Array, bias: Array | None = None) -> None:
        value, result = node.input[0], node.output[0]
        row = self.rows.get(value)
        if row is not None and 4 * len(row.table) * weights.shape[1] <= self.largest_table:
            table = row.table @ weights
            self.rows[result] = Row(table if bias is None else table + bias, node, weights, 0 if bias is None else 1)
        else:
            self._write(value)
            self.sums[result] = Sum(products=[(value, weights)], bias=bias)

    def _gemm(self, node: onnx.NodeProto) -> bool:
        """torch's form of a linear layer with a bias."""
        weights = product_weights(node, self.weights)
        if weights is None or len(node.input) < 3 or self.axes(node.input[2]) != 1:
            return False
        self._product(node, weights, self.weights[node.input[2]])
        return True

    def _add(self, node: onnx.NodeProto) -> bool:
        result = node.output[0]
        if row := self._row_and_constant(node):
            name, constant = row
            self.rows[result] = self.rows[name].then(self.rows[name].table + constant, node)
            return True
        left, right = self._term(node.input[0]), self._term(node.input[1])
        if left is None or right is None or not (left.products or right.products) or (left.row and right.row):
            return False
        if left.products and right.products:
            both = (left.products[0][0], right.products[0][0])
            if any(self.uses[value] > 1 for value in node.input) or not self._alike(*both):
                return False
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

    def _term(self, value: str) -> Sum | None:
        """A value as a part of a sum; None for one that is none. A row that is read elsewhere too stands for itself."""
        if value in self.sums:
            return self.sums[value]
        if value in self.rows and self.rows[value].product is not None and self.uses[value] == 1:
            return Sum(row=self.rows[value])
        return Sum(bias=self.weights[value]) if self.axes(value) == 1 else None

    def _row_and_constant(self, node: onnx.NodeProto) -> tuple[str, Array] | None:
        """The operands of a node that joins a row with a constant that is the same for each token.

        What the embedding met weights for has one table: read elsewhere too, it stays as it is.
        """
        for row, constant in (tuple(node.input), tuple(reversed(node.input))):
            joined = row in self.rows and (self.rows[row].product is None or self.uses[row] == 1)
            if joined and self.axes(constant) in (0, 1):
                return row, self.weights[constant]
        return None

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
            self.node("Gather", [self._table(value, row), "token"], value, axis=0)
        else:
            for before in row.node.input:
                self._write(before)
            self.nodes.append(row.node)

    def _write_sum(self, value: str, total: Sum) -> None:
        terms = [self._write_product(value, total.products)]
        if total.row is not None:
            row = total.row if total.bias is None else total.row.then(total.row.table + total.bias, total.row.node)
            terms.append(self.node("Gather", [self._table(value, row), "token"], f"{value}.row", axis=0))
        elif total.bias is not None:
            terms.append(self._weight(f"{value}.bias", total.bias, Origin([])))
        if len(terms) > 1:
            self.node("Add", terms, f"{value}.sum")
        self.nodes[-1].output[0] = value

    def _write_product(self, name: str, products: list[tuple[str, Array]]) -> str:
        values, parts = [value for value, _ in products], [weights for _, weights in products]
        value = values[0] if len(values) == 1 else self.node("Concat", values, f"{name}.joined", axis=-1)
        weight = self._weight(f"{name}.weight", np.concatenate(parts), Origin(parts))
        return self.node("MatMul", [value, weight], f"{name}.product")

    def _table(self, name: str, row: Row) -> str:
        assert row.product is not None
        return self._weight(f"{name}.table", row.table, Origin([row.product], row.steps))

    def _weight(self, name: str, value: Array, origin: Origin) -> str:
        self.origins[name] = origin
        return self.weight(name, np.asarray(value, np.float32))


def _plus(a: Array | None, b: Array | None) -> Array | None:
    return b if a is None else a if b is None else a + b
