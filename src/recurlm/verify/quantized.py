"""PyTorch with the arithmetic of an int8 or int4 bundle: the model's own code, in the very operations of the graph.

A product with quantized weights becomes a sum of whole numbers; what processors approximate, or add up in orders of
their own, becomes the functions of exact.py. Sums are brought into the form that export/sums.py gives them in a graph:
products of one sum are added up as whole numbers, then scaled, then a row of a table or a bias is added. The result is
the graph's bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from recurlm.export import exact
from recurlm.export.rewriter import key_of
from recurlm.verify.exact_operators import CONSTANT, EXACT, STANDARD

aten = torch.ops.aten
EXACT_IN_FP32 = 2**24  # whole numbers up to here, and all sums of them


@dataclass(frozen=True)
class Row:
    """What stands in a table in place of a product with a token's embedding."""

    key: str  # of the weights
    steps: int  # constants multiplied with it or added to it so far


@dataclass(frozen=True)
class Sum:
    """What a tensor is known to be the sum of: as `recurlm.export.sums.Sum`."""

    total: Tensor | None = None  # of products, in whole numbers
    key: str = ""  # of the weights of one of them
    row: Row | None = None
    bias: Tensor | None = None


class QuantizedArithmetic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Inside `with QuantizedArithmetic(…):` all is computed as in the graphs.

    Weights are identified by a hash of their bytes, so that no parameter's name stands here.
    """

    def __init__(self, arithmetic: Mapping[str, Tensor], model: nn.Module | None = None) -> None:
        """`arithmetic` is what `quantize.Quantizer` recorded when it wrote the graphs."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.arithmetic = arithmetic
        self.keys: dict[tuple[Any, ...], tuple[Tensor, str]] = {}  # the parameter lives as long as its key
        self.buffers = {id(buffer) for buffer in model.buffers()} if model is not None else set()
        self.tokens = torch.empty(0, dtype=torch.int64)
        self.met: set[str] = set()  # keys of the matrices that were used
        self.watch: Callable[[str, Tensor], None] | None = None  # gets each input of a product before it is rounded
        self.whole = {
            name: value.float() if 128 * 128 * len(value) < EXACT_IN_FP32 else value.double()
            for name, value in arithmetic.items()
            if name.startswith("weights.")
        }

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        if name.endswith("_") and not name.startswith("_") and args and isinstance(args[0], Tensor):
            return self._in_place(func, name[:-1], args, kwargs)
        return self._run(func, name, args, kwargs)

    def _in_place(self, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
        target = args[0]
        if name == "copy":
            return func(*args, **kwargs)  # type: ignore[no-any-return]
        overload = getattr(getattr(aten, name), func._overloadname)
        value = self._run(overload, name, args, kwargs)
        target.copy_(value)
        _know(target, getattr(value, "_sum", None), constant=False)
        return target  # type: ignore[no-any-return]

    def _run(self, func: Any, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Any:
        if name == "embedding":
            self.tokens = args[1]
            return self._embedding(args[0], args[1])
        if name in ("mm", "addmm", "bmm") and (product := self._product(name, args)) is not None:
            return product
        if name in ("add", "mul") and (known := self._combined(name, args, kwargs)) is not None:
            return known
        if name not in EXACT and name not in STANDARD:
            raise exact.refusal(f"torch's {name}, which this cell computes")
        result = EXACT.get(name, func)(*args, **kwargs)
        if name in ("view", "_unsafe_view") and (sum_ := getattr(args[0], "_sum", None)) is not None:
            if sum_.total is not None and result.shape[-1] == args[0].shape[-1]:
                _know(result, replace(sum_, total=sum_.total.view(result.shape)), constant=False)
        elif name in CONSTANT and isinstance(result, Tensor):
            tensors = [value for value in _flat(args) if isinstance(value, Tensor)]
            _know(result, None, constant=all(self._is_constant(value) for value in tensors))
        return result

    def _embedding(self, table: Tensor, tokens: Tensor) -> Tensor:
        key = self._key(table)
        rows = self.arithmetic.get(f"table.{key}")
        if rows is None:
            return aten.embedding.default(table, tokens)  # type: ignore[no-any-return]
        self.met.add(key)
        return rows[tokens]

    def _product(self, name: str, args: Sequence[Any]) -> Tensor | None:
        """A product with quantized weights, or what stands in a table in its place; None for any other one."""
        bias = args[0] if name == "addmm" else None
        x, weights = args[1:3] if name == "addmm" else args[:2]
        if name == "bmm":
            if not self._is_constant(weights) or (len(weights) > 1 and weights.stride(0) != 0):
                return None
            weights = weights[0]  # which torch, in here, does not say what it is a view of
        elif not self._is_constant(weights):
            return None
        key = self._key(weights)
        if f"table.{key}" in self.arithmetic:
            self.met.add(key)
            known = Sum(row=Row(key, 0))
        elif f"weights.{key}" in self.arithmetic:
            self.met.add(key)
            known = Sum(total=self._total(x, key), key=key)
        else:
            raise ValueError("a product with weights was not quantized")
        return self._value(known if bias is None else self._plus(known, Sum(bias=bias)) or known)

    def _total(self, x: Tensor, key: str) -> Tensor:
        """The input is rounded as QuantizeLinear does, to uint8 with 128 for zero."""
        quotient = x / self.arithmetic[f"scale.{key}"]
        if self.watch is not None:
            self.watch(key, quotient)
        quantized = torch.clamp(torch.round(quotient), -128, 127)
        weights = self.whole[f"weights.{key}"]
        return quantized.to(weights.dtype) @ weights

    # Sums.

    def _combined(self, name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor | None:
        """What becomes of a sum that something is added to, or of a row that a constant is multiplied with."""
        left, right = (self._known(value) for value in args[:2])
        if kwargs.get("alpha", 1) != 1:
            return None
        if name == "add" and left is not None and right is not None:
            total = self._plus(left, right)
            return None if total is None else self._value(total)
        for one, other in ((left, args[1]), (right, args[0])):
            if one is not None and one.row is not None and one.total is None and self._axes(other) in (0, 1):
                row = Row(one.row.key, one.row.steps + 1)
                if row.steps <= self._steps(row.key):
                    return self._value(Sum(row=row))
        return None

    def _known(self, value: Any) -> Sum | None:
        known: Sum | None = getattr(value, "_sum", None)
        if known is None and self._axes(value) == 1:
            return Sum(bias=value)
        return known

    def _plus(self, left: Sum, right: Sum) -> Sum | None:
        """The sum of both, or None where the graph has an addition of its own."""
        if left.row is not None and right.row is not None:
            return None
        total, key = left.total, left.key or right.key
        if left.total is None:
            total = right.total
        elif right.total is not None:
            if self.arithmetic[f"group.{left.key}"] != self.arithmetic[f"group.{right.key}"]:
                return None
            total = left.total.double() + right.total.double()
        row = left.row or right.row
        if left.bias is None or right.bias is None:
            bias = right.bias if left.bias is None else left.bias
        else:
            bias = left.bias + right.bias
        if row is not None and row.steps + (bias is not None) > self._steps(row.key):
            return None
        if total is None and row is not None and bias is not None:
            row, bias = Row(row.key, row.steps + 1), None
        return None if total is None and row is None else Sum(total, key, row, bias)

    def _value(self, known: Sum) -> Tensor:
        """The tensor of a sum. What the graph has no value of, as a row before all is in it, is not a number."""
        value = None
        if known.row is not None:
            key, steps = known.row.key, known.row.steps + (known.bias is not None)
            table = self.arithmetic[f"table.{key}"]
            value = table[self.tokens] if steps == self._steps(key) else table[self.tokens] * torch.nan
        elif known.bias is not None:
            value = known.bias
        if known.total is not None:
            product = known.total.float() * self.arithmetic[f"back.{known.key}"]
            value = product if value is None else product + value
        assert value is not None
        _know(value, known, constant=False)
        return value

    def _steps(self, key: str) -> int:
        return int(self.arithmetic[f"steps.{key}"])

    def scales(self) -> list[Tensor]:
        """Those of the inputs of products."""
        return [value for name, value in self.arithmetic.items() if name.startswith("scale.")]

    # Constants: what the exporter knows when it writes a graph.

    def _axes(self, value: Any) -> int | None:
        """The rank of a constant; None for anything else."""
        if not isinstance(value, Tensor):
            return 0
        return value.ndim if self._is_constant(value) else None

    def _is_constant(self, value: Tensor) -> bool:
        base = value._base if value._base is not None else value
        return isinstance(base, nn.Parameter) or id(base) in self.buffers or getattr(value, "_constant", False)

    def _key(self, matrix: Tensor) -> str:
        """The key of a matrix's bytes: cached for a parameter or a view of one.

        Any other tensor is hashed each time that it is met: its memory, and so its address, may be used again.
        """
        base = matrix._base if matrix._base is not None else matrix
        if not isinstance(base, nn.Parameter):
            return key_of(matrix.detach().contiguous().numpy())
        place = (matrix.data_ptr(), tuple(matrix.shape), matrix.stride(), base._version)
        if place not in self.keys:
            self.keys[place] = (base, key_of(matrix.detach().contiguous().numpy()))
        return self.keys[place][1]


def _know(tensor: Tensor, known: Sum | None, constant: bool) -> None:
    tensor._sum, tensor._constant = known, constant  # type: ignore[attr-defined]


def _flat(values: Sequence[Any]) -> list[Any]:
    return [part for value in values for part in (_flat(value) if isinstance(value, (list, tuple)) else [value])]
