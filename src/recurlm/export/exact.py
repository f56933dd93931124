"""Functions of nothing but IEEE 754 operations in fp32, which every processor and runtime rounds to the same bits.

Sums, products, quotients, comparisons and roundings are exact by the standard; `tanh` and `exp` are not, and each
library approximates them in its own way. Here they are polynomials, quotients and squares with a fixed order of
operations. Each function is written once, against an `Arithmetic`: on tensors of PyTorch it is the reference, on names
of values it writes the nodes of an ONNX graph (exact_graph.py). So both do the very same operations.

How far each is from the true function is in `tests/export/test_exact.py`, over its whole range.
"""

from __future__ import annotations

import math
import operator
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import ClassVar, Generic, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from recurlm.errors import InputError

V = TypeVar("V")

LOG_2_HIGH, LOG_2_LOW = 0.693359375, -2.12194440e-4  # their sum is ln 2; the first has 10 bits, so that n · it is exact
PI_PARTS = (3.140625, 9.67502593994140625e-4, 1.509957990978376432e-7)  # their sum is π; the first two have few bits
SMALLEST, LARGEST = -87.0, 88.0  # exp of less is 0, of more is exp(88): no number in between is subnormal or infinite
POWERS = (-2.0, -1.0, -0.5, 0.5, 1.0, 2.0, 3.0, 4.0)
OTHER_POWERS = f"powers other than {', '.join(f'{power:g}' for power in POWERS)}"
HINT = "docs/extending.md lists the operations that int8 and int4 have an exact form of"
IN_PAIRS = 4  # up to so many numbers: see `total`
SQUARINGS = 8  # exp(x) = exp(x / 256)^256
LOG1P_3, LOG1P_5 = 0.6649252, 0.4489572  # 2 atanh(s) ≈ 2 s + LOG1P_3 s³ + LOG1P_5 s⁵ for s up to ⅓

# tanh(x) ≈ x (A / (x² + B) + C) up to TANH_END, where it is 1 to the last bits: the least largest error, 0.0028, of all
# such quotients that end at 1. No perplexity notices it (benchmarks/exact_functions.py); a degree more costs time.
TANH_A, TANH_B, TANH_C = 2.418577, 2.801478, 0.1263959
TANH_END = 3.2979


def refusal(what: str) -> InputError:
    """The error of an operation that has no exact form, in a graph and in PyTorch."""
    return InputError(f"int8 and int4 have no exact form of {what}: {HINT}")


class Arithmetic(ABC, Generic[V]):
    """The exact operations, under the names of ONNX's operators. A number beside a value is rounded to fp32."""

    @abstractmethod
    def op(self, kind: str, *operands: V | float) -> V: ...

    @abstractmethod
    def along(self, kind: str, x: V, axis: int, *sizes: int) -> V:
        """An operator along one axis, which stays: a reduction, or "Pad" with so many zeros before and behind."""

    @abstractmethod
    def cut(self, x: V, axis: int, sizes: list[int]) -> list[V]: ...

    def add(self, a: V, b: V | float) -> V:
        return self.op("Add", a, b)

    def sub(self, a: V | float, b: V) -> V:
        return self.op("Sub", a, b)

    def mul(self, a: V, b: V | float) -> V:
        return self.op("Mul", a, b)

    def div(self, a: V | float, b: V | float) -> V:
        return self.op("Div", a, b)

    def clip(self, x: V, low: float, high: float) -> V:
        return self.op("Clip", x, low, high)

    def maximum(self, a: V, b: V | float) -> V:
        return self.op("Max", a, b)

    def sqrt(self, x: V) -> V:
        return self.op("Sqrt", x)

    def at_least(self, x: V, limit: float, then: V | float, otherwise: V | float) -> V:
        """`then` where x ≥ limit."""
        return self.op("Where", self.op("GreaterOrEqual", x, limit), then, otherwise)


def tanh(a: Arithmetic[V], x: V) -> V:
    return _quotient(a, x, TANH_END, TANH_A, TANH_B, TANH_C)


def scaled_tanh(a: Arithmetic[V], x: V, numerator: V, constant: V) -> V:
    """f · tanh(x), for factors f that are powers of two: of `numerator` f · TANH_A and `constant` f · TANH_C."""
    return _quotient(a, x, TANH_END, numerator, TANH_B, constant)


def sigmoid(a: Arithmetic[V], x: V) -> V:
    """½ + ½ tanh(x / 2), bit for bit: dividing by powers of two rounds nothing."""
    return a.add(_quotient(a, x, 2 * TANH_END, TANH_A, 4 * TANH_B, TANH_C / 4), 0.5)


def _quotient(a: Arithmetic[V], x: V, end: float, numerator: V | float, shift: float, constant: V | float) -> V:
    """x (numerator / (x² + shift) + constant), where x is cut at ± end."""
    x = a.clip(x, -end, end)
    return a.mul(x, a.add(a.div(numerator, a.add(a.mul(x, x), shift)), constant))


def silu(a: Arithmetic[V], x: V) -> V:
    return a.mul(x, sigmoid(a, x))


def exp(a: Arithmetic[V], x: V) -> V:
    """(e^z)^256 with z = x / 256, e^z ≈ (E + O) / (E − O): Padé's quotient of degree 2, E and O its even and odd part.

    Both are 256² times as large, so that x itself stands in them.
    """
    y = a.clip(x, SMALLEST, LARGEST)
    even, odd = a.add(a.mul(y, y), 12.0 * 4**SQUARINGS), a.mul(y, 6.0 * 2**SQUARINGS)
    y = a.div(a.add(even, odd), a.sub(even, odd))
    for _ in range(SQUARINGS):
        y = a.mul(y, y)
    return a.at_least(x, SMALLEST, y, 0.0)


def log1p(a: Arithmetic[V], u: V) -> V:
    """log(1 + u) for u from 0 to 1: 2 atanh(s) with s = u / (2 + u), by the polynomial of least relative error."""
    s = a.div(u, a.add(u, 2.0))
    v = a.mul(s, s)
    return a.mul(s, a.add(a.mul(a.add(a.mul(v, LOG1P_5), LOG1P_3), v), 2.0))


def _twice_atanh(a: Arithmetic[V], s: V) -> V:
    """Its series, for s from 0 to ⅓."""
    u = a.mul(s, s)
    total = a.mul(u, 2 / 13)
    for odd in (11, 9, 7, 5, 3):
        total = a.mul(a.add(total, 2 / odd), u)
    return a.mul(a.add(total, 2.0), s)


def softplus(a: Arithmetic[V], x: V) -> V:
    """max(x, 0) + log(1 + e^−|x|)."""
    return a.add(a.maximum(x, 0.0), log1p(a, exp(a, a.op("Neg", a.op("Abs", x)))))


def log_sigmoid(a: Arithmetic[V], x: V) -> V:
    return a.op("Neg", softplus(a, a.op("Neg", x)))


def log(a: Arithmetic[V], x: V) -> V:
    """x = 2^n m with 1 ≤ m < 2, found by comparisons; what is below 2^−126 counts as that."""
    m = a.maximum(x, 2.0**-126)
    n = a.at_least(m, 1.0, 0.0, -126.0)
    m = a.at_least(m, 1.0, m, a.mul(m, 2.0**126))
    for bit in (64, 32, 16, 8, 4, 2, 1):
        n = a.add(n, a.at_least(m, 2.0**bit, float(bit), 0.0))
        m = a.at_least(m, 2.0**bit, a.mul(m, 0.5**bit), m)
    # From √½ to √2, so that the logarithm of a number near 1 has no large part to cancel.
    n = a.add(n, a.at_least(m, math.sqrt(2), 1.0, 0.0))
    m = a.at_least(m, math.sqrt(2), a.mul(m, 0.5), m)
    fraction = _twice_atanh(a, a.div(a.add(m, -1.0), a.add(m, 1.0)))
    return a.add(a.add(a.mul(n, LOG_2_LOW), fraction), a.mul(n, LOG_2_HIGH))


def sin(a: Arithmetic[V], x: V) -> V:
    return _wave(a, x, a.op("Round", a.mul(x, 1 / math.pi)))


def cos(a: Arithmetic[V], x: V) -> V:
    """sin(x + π/2): the nearest odd multiple of π/2 is taken away."""
    n = a.add(a.op("Round", a.add(a.mul(x, 1 / math.pi), -0.5)), 0.5)
    return _wave(a, x, n, quarter=0.5)


def _wave(a: Arithmetic[V], x: V, n: V, quarter: float = 0.0) -> V:
    """± sin(x − n π), by sin's series of degree 11; the sign is that of (−1)^(n + quarter)."""
    for part in PI_PARTS:
        x = a.sub(x, a.mul(n, part))
    u = a.mul(x, x)
    total = a.mul(u, -1 / math.factorial(11))
    for odd, sign in ((9, 1), (7, -1), (5, 1), (3, -1)):
        total = a.mul(a.add(total, sign / math.factorial(odd)), u)
    y = a.mul(a.add(total, 1.0), x)
    whole = a.add(n, quarter) if quarter else n
    even = a.sub(whole, a.mul(a.op("Floor", a.mul(whole, 0.5)), 2.0))  # 0 or 1
    return a.mul(y, a.sub(1.0, a.mul(even, 2.0)))


def total(a: Arithmetic[V], x: V, axis: int, size: int) -> V:
    """The sum along an axis of `size` numbers, the same in whichever order a runtime adds them up.

    The axis stays, with size 1. Numbers that lie one behind the other are first rounded to the last places of a large
    offset, by adding it and taking it away: to multiples of a power of two so large that every sum of them is exact
    (Rump, Ogita & Oishi 2008, "Accurate floating-point summation"). Each moves by at most size · 2^−22 of the largest.
    Few of them, and those of another axis, are quicker added up in pairs, the first half to the second.
    """
    if axis != -1 or size <= IN_PAIRS:
        return _in_pairs(a, x, axis, size)
    offset = a.mul(a.along("ReduceMax", a.op("Abs", x), axis), 2.0 ** ((size - 1).bit_length() + 1))
    return a.along("ReduceSum", a.sub(a.add(x, offset), offset), axis)


def _in_pairs(a: Arithmetic[V], x: V, axis: int, size: int) -> V:
    """Until one number is left; zeros fill them up to a power of two."""
    width = 1 << (size - 1).bit_length()
    if width > size:
        x = a.along("Pad", x, axis, 0, width - size)
    while width > 1:
        width //= 2
        first, second = a.cut(x, axis, [width, width])
        x = a.add(first, second)
    return x


def mean(a: Arithmetic[V], x: V, axis: int, size: int) -> V:
    return a.div(total(a, x, axis, size), float(size))


def sum_of_squares(a: Arithmetic[V], x: V, axis: int, size: int) -> V:
    return total(a, a.mul(x, x), axis, size)


def length(a: Arithmetic[V], x: V, axis: int, size: int) -> V:
    """The Euclidean norm."""
    return a.sqrt(sum_of_squares(a, x, axis, size))


def log_sum_exp(a: Arithmetic[V], x: V, axis: int, size: int) -> V:
    largest = a.along("ReduceMax", x, axis)
    return a.add(log(a, total(a, exp(a, a.sub(x, largest)), axis, size)), largest)


def power(a: Arithmetic[V], x: V, exponent: float) -> V:
    """x to one of POWERS."""
    if exponent < 0:
        return a.div(1.0, power(a, x, -exponent))
    if exponent == 0.5:
        return a.sqrt(x)
    y = x
    for _ in range(int(exponent) - 1):
        y = a.mul(y, x)
    return y


def running_total(a: Arithmetic[V], x: V, axis: int, size: int) -> V:
    """The cumulative sum: each number plus that 1, 2, 4, … places before it."""
    shift = 1
    while shift < size:
        kept, _ = a.cut(x, axis, [size - shift, shift])
        x = a.add(x, a.along("Pad", kept, axis, shift, 0))
        shift *= 2
    return x


def softmax(a: Arithmetic[V], x: V, axis: int, size: int) -> V:
    weight = exp(a, a.sub(x, a.along("ReduceMax", x, axis)))
    return a.div(weight, total(a, weight, axis, size))


def log_softmax(a: Arithmetic[V], x: V, axis: int, size: int) -> V:
    below = a.sub(x, a.along("ReduceMax", x, axis))
    return a.sub(below, log(a, total(a, exp(a, below), axis, size)))


def normalize(a: Arithmetic[V], x: V, axis: int, size: int, epsilon: float) -> V:
    """Layer normalization, before its weights: (x − mean) / √(variance + ε)."""
    centred = a.sub(x, mean(a, x, axis, size))
    variance = mean(a, a.mul(centred, centred), axis, size)
    return a.div(centred, a.sqrt(a.add(variance, epsilon)))


def _fp32(x: Tensor | float) -> Tensor:
    return torch.as_tensor(x, dtype=torch.float32)


class TorchArithmetic(Arithmetic[Tensor]):
    """On tensors in fp32."""

    OPERATORS: ClassVar[dict[str, Callable[..., Tensor]]] = {
        "Add": operator.add,
        "Sub": operator.sub,
        "Mul": operator.mul,
        "Div": lambda a, b: _fp32(a) / _fp32(b),
        "Clip": torch.clamp,
        "Max": lambda a, b: torch.maximum(a, _fp32(b)),
        "Abs": torch.abs,
        "Neg": torch.neg,
        "Round": torch.round,  # halves to the even one
        "Floor": torch.floor,
        # torch's own in fp32 is MKL's, which is off by a bit in some of a hundred; that of doubles, rounded, is exact.
        "Sqrt": lambda x: torch.sqrt(x.double()).float(),
        "GreaterOrEqual": lambda x, limit: x >= _fp32(limit),
        "Where": lambda condition, a, b: torch.where(condition, _fp32(a), _fp32(b)),
    }

    def op(self, kind: str, *operands: Tensor | float) -> Tensor:
        return self.OPERATORS[kind](*operands)

    def along(self, kind: str, x: Tensor, axis: int, *sizes: int) -> Tensor:
        if kind == "Pad":
            return F.pad(x, (*[0] * (2 * (-axis - 1)), *sizes))
        return x.amax(dim=axis, keepdim=True) if kind == "ReduceMax" else x.sum(dim=axis, keepdim=True)

    def cut(self, x: Tensor, axis: int, sizes: list[int]) -> list[Tensor]:
        return list(torch.split(x, sizes, dim=axis))


TORCH = TorchArithmetic()
