"""torch's operators in the exact forms of export/exact.py, as export/exact_graph.py rewrites those of ONNX."""

from __future__ import annotations

import operator
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from recurlm.export import exact
from recurlm.export.exact import TORCH


def _along(function: Callable[[Any, Tensor, int, int], Tensor], x: Tensor, dim: int) -> Tensor:
    axis = dim if dim < 0 else dim - x.ndim
    return function(TORCH, x, axis, x.shape[axis])


def _reduce(
    function: Callable[[Any, Tensor, int, int], Tensor], x: Tensor, dim: Sequence[int] | int | None, keepdim: bool
) -> Tensor:
    dims = [dim] if isinstance(dim, int) else list(dim or ())
    if len(dims) != 1:
        raise exact.refusal(f"a sum over {len(dims) or 'all'} axes")
    result = _along(function, x, dims[0])
    return result if keepdim else result.squeeze(dims[0])


def _sum(x: Tensor, dim: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor:
    if not x.is_floating_point():
        return torch.sum(x, dim=None if dim is None else list(dim), keepdim=keepdim, dtype=dtype)
    return _reduce(exact.total, x, dim, keepdim)


def _reduction(function: Callable[[Any, Tensor, int, int], Tensor]) -> Callable[..., Tensor]:
    return lambda x, dim=None, keepdim=False, *, dtype=None: _reduce(function, x, dim, keepdim)


def _vector_norm(
    x: Tensor, order: float = 2, dim: Sequence[int] | None = None, keepdim: bool = False, *, dtype: Any = None
) -> Tensor:
    if order != 2:
        raise exact.refusal(f"a norm of order {order}")
    return _reduce(exact.length, x, dim, keepdim)


def _running_total(x: Tensor, dim: int, *, dtype: Any = None) -> Tensor:
    return _along(exact.running_total, x, dim) if x.is_floating_point() else torch.cumsum(x, dim)


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    if len(shape) != 1:
        raise exact.refusal(f"layer normalization over {len(shape)} axes")
    y = exact.normalize(TORCH, x, -1, shape[0], epsilon)
    y = y if weight is None else y * weight
    return y if bias is None else y + bias, x, x


def _group_norm(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, n: int, channels: int, size: int, groups: int, epsilon: float
) -> tuple[Tensor, Tensor, Tensor]:
    rows = x.reshape(n, groups, -1)
    y = exact.normalize(TORCH, rows, -1, rows.shape[-1], epsilon).reshape(x.shape)
    axes = (slice(None), *[None] * (x.ndim - 2))
    y = y if weight is None else y * weight[axes]
    return y if bias is None else y + bias[axes], x, x


def _bmm(x: Tensor, y: Tensor) -> Tensor:
    if x.shape[-1] == 1:
        return x * y
    return exact.total(TORCH, x[..., :, :, None] * y[..., None, :, :], -2, x.shape[-1]).squeeze(-2)


def _power(x: Tensor, exponent: float) -> Tensor:
    if float(exponent) not in exact.POWERS:
        raise exact.refusal(exact.OTHER_POWERS)
    return exact.power(TORCH, x, float(exponent))


def _lerp(start: Tensor, end: Tensor, weight: float | Tensor) -> Tensor:
    difference = end - start
    weight = torch.as_tensor(weight, dtype=torch.float32)
    return torch.where(weight < 0.5, start + weight * difference, end - difference * (1 - weight))


def _addcmul(x: Tensor, a: Tensor, b: Tensor, *, value: float = 1) -> Tensor:
    return x + (a if value == 1 else a * value) * b  # in the order of torch's exporter


def _scaled(function: Callable[[Any, Any], Tensor]) -> Callable[..., Tensor]:
    return lambda x, y, *, alpha=1: function(x, y if alpha == 1 else y * alpha)


def _glu(x: Tensor, dim: int = -1) -> Tensor:
    value, gate = x.chunk(2, dim)
    return value * exact.sigmoid(TORCH, gate)


def _softplus(x: Tensor, beta: float = 1, threshold: float = 20) -> Tensor:
    if beta != 1:
        raise exact.refusal(f"softplus with beta {beta:g}")
    return torch.where(x > threshold, x, exact.softplus(TORCH, x))


EXACT: dict[str, Callable[..., Any]] = {
    "tanh": lambda x: exact.tanh(TORCH, x),
    "sigmoid": lambda x: exact.sigmoid(TORCH, x),
    "silu": lambda x: exact.silu(TORCH, x),
    "exp": lambda x: exact.exp(TORCH, x),
    "expm1": lambda x: exact.exp(TORCH, x) - 1,
    "log": lambda x: exact.log(TORCH, x),
    "log1p": lambda x: exact.log(TORCH, x + 1),
    "logaddexp": lambda x, y: exact.log(TORCH, exact.exp(TORCH, x) + exact.exp(TORCH, y)),
    "softplus": _softplus,
    "log_sigmoid_forward": lambda x: (exact.log_sigmoid(TORCH, x), x),
    "sin": lambda x: exact.sin(TORCH, x),
    "cos": lambda x: exact.cos(TORCH, x),
    "sqrt": TORCH.sqrt,
    "rsqrt": lambda x: TORCH.div(1.0, TORCH.sqrt(x)),
    "reciprocal": lambda x: TORCH.div(1.0, x),
    "pow": _power,
    "glu": _glu,
    "lerp": _lerp,
    "addcmul": _addcmul,
    "add": _scaled(operator.add),
    "sub": _scaled(operator.sub),
    "bmm": _bmm,
    "mm": _bmm,
    "sum": _sum,
    "mean": _reduction(exact.mean),
    "logsumexp": _reduction(exact.log_sum_exp),
    "linalg_vector_norm": _vector_norm,
    "cumsum": _running_total,
    "_softmax": lambda x, dim, half_to_float: _along(exact.softmax, x, dim),
    "_log_softmax": lambda x, dim, half_to_float: _along(exact.log_softmax, x, dim),
    "native_layer_norm": _layer_norm,
    "native_group_norm": _group_norm,
}
# What the standard rounds, or is no arithmetic. The result is a constant where all inputs are: the exporter folds it.
FOLDED = """_reshape_alias _to_copy _unsafe_view abs add addcmul alias amax amin arange as_strided bitwise_and
    bitwise_not bitwise_or cat ceil clamp clamp_max clamp_min clone constant_pad_nd detach div empty_like eq
    expand flip floor full full_like gather ge gt index index_select le leaky_relu lerp lift_fresh logical_and
    logical_not logical_or lt masked_fill maximum minimum mul ne neg ones ones_like permute relu repeat roll
    round rsub scalar_tensor select sign slice split split_with_sizes sqrt squeeze stack sub t transpose tril
    triu unbind unsqueeze view where zeros zeros_like"""
OTHER = "argmax argmin copy fill max min new_full new_ones new_zeros scatter sort topk zero"
CONSTANT = frozenset(FOLDED.split())
STANDARD = CONSTANT | frozenset(OTHER.split())
