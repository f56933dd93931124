"""Attention over a window: the yardstick. Its state is the keys and values of the last elements, and has an end."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import linear, products, rotate, split

BASE = 10000.0
EMPTY = -1e9  # the score of a place in the window that holds nothing yet


class Transformer(Recurrence):
    """y = W softmax(qᵀ K / √d) V over the last `window` elements (Vaswani et al. 2017, arXiv:1706.03762).

    Queries and keys are rotated by their positions (Su et al. 2021, arXiv:2104.09864), of which only differences count:
    a key's position is its place in the window, so that no counter grows. The state holds keys before rotation, values,
    and a 1 where there is any: zeros are an empty window.
    """

    cos: Tensor
    sin: Tensor

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1, window: int = 128) -> None:
        super().__init__()
        if window < 2:
            raise ValueError(f"a window of {window} holds no past")
        self.heads, self.size, self.past = heads, split(hidden_size, heads), window - 1
        self.output_size = hidden_size
        shape = (heads, self.past, self.size)
        self.state_spec = {"keys": shape, "values": shape, "filled": (self.past,)}
        pairs = self.size // 2
        theta = BASE ** -(torch.arange(pairs, dtype=torch.float64) / max(pairs, 1))
        angle = torch.arange(2 * self.past)[:, None] * theta  # of each position in the window and a piece behind it
        self.register_buffer("cos", torch.cos(angle), persistent=False)
        self.register_buffer("sin", torch.sin(angle), persistent=False)
        self.Wq, self.Wk, self.Wv = (linear(input_size, hidden_size) for _ in range(3))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        """In pieces of a window at most, so that memory stays bounded."""
        outputs = []
        for start in range(0, x.shape[1], self.past):
            piece = slice(start, start + self.past)
            y, state = self._read(x[:, piece], state, None if reset is None else reset[:, piece])
            outputs.append(y)
        return torch.cat(outputs, dim=1), state

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        q, k, v = (torch.unflatten(W(x), -1, (self.heads, 1, -1)) for W in (self.Wq, self.Wk, self.Wv))
        K, V = torch.cat([state["keys"], k], dim=2), torch.cat([state["values"], v], dim=2)
        filled = torch.cat([state["filled"], torch.ones_like(state["filled"][:, :1])], dim=1)
        scores = (self._rotated(K, 0) * self._rotated(q, self.past)).sum(dim=-1) * self.size**-0.5
        weights = torch.softmax(scores + self._bias(filled)[:, None], dim=-1)
        y = (weights[..., None] * V).sum(dim=2).flatten(1)
        return y, {"keys": K[:, :, 1:], "values": V[:, :, 1:], "filled": filled[:, 1:]}

    def _read(self, x: Tensor, state: State, reset: Tensor | None) -> tuple[Tensor, State]:
        """A piece of at most a window, all of its queries at once."""
        time, length = x.shape[1], self.past + x.shape[1]
        q, k, v = (torch.unflatten(part, -1, (self.heads, -1)) for part in products(x, self.Wq, self.Wk, self.Wv))
        filled = F.pad(state["filled"], (0, time), value=1.0)
        age = self.past + torch.arange(time, device=x.device)[:, None] - torch.arange(length, device=x.device)
        seen = (age >= 0) & (age <= self.past) & (filled[:, None] != 0)
        if reset is not None:
            segment = F.pad(reset.long().cumsum(1), (self.past, 0))
            seen = seen & (segment[:, self.past :, None] == segment[:, None])
        y = _Attention.apply(q, k, v, state["keys"], state["values"], seen, self.cos, self.sin)  # type: ignore[no-untyped-call]
        K, V = (
            torch.cat([state[name][:, :, time:], new.transpose(1, 2).to(filled.dtype)], dim=2)
            for name, new in (("keys", k), ("values", v))
        )
        filled = filled[:, time:]
        if reset is not None:
            kept = (segment == segment[:, -1:])[:, time:]
            K, V, filled = K * kept[:, None, :, None], V * kept[:, None, :, None], filled * kept
        return y.flatten(2), {"keys": K, "values": V, "filled": filled}

    def _bias(self, filled: Float[Tensor, "batch length"]) -> Float[Tensor, "batch length"]:
        return torch.where(filled == 0, EMPTY, 0.0)

    def _rotated(self, x: Float[Tensor, "batch heads time size"], first: int) -> Tensor:
        """By the positions `first`, `first` + 1, …"""
        positions = slice(first, first + x.shape[2])
        return rotate(x, self.cos[positions], self.sin[positions])


class _Attention(torch.autograd.Function):
    """softmax(qᵀ K / √d) V with K and q rotated, where `seen`; the backward pass leaves out a past without gradients.

    The past is [batch, heads, past, size], the piece behind it [batch, time, heads, size].
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, keys: Tensor, values: Tensor, seen: Tensor, cos: Tensor, sin: Tensor
    ) -> Tensor:
        past, time = keys.shape[2], q.shape[1]
        q, k, v = (part.transpose(1, 2) for part in (q, k, v))
        cos, sin = cos[: past + time].to(q.dtype), sin[: past + time].to(q.dtype)
        K, V = (torch.cat([before.to(q.dtype), new], dim=2) for before, new in ((keys, k), (values, v)))
        K, q = rotate(K, cos, sin), rotate(q * q.shape[-1] ** -0.5, cos[past:], sin[past:])
        scores = (q @ K.transpose(-1, -2)).masked_fill_(~seen[:, None], -torch.inf)
        weights = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(q, K, V, weights, cos, sin)
        return (weights @ V).transpose(1, 2)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        q, K, V, weights, cos, sin = ctx.saved_tensors
        past = K.shape[2] - q.shape[2]
        first = 0 if any(ctx.needs_input_grad[3:5]) else past
        dy = dy.transpose(1, 2)
        dV = weights[..., first:].transpose(-1, -2) @ dy
        dscores = torch.ops.aten._softmax_backward_data(dy @ V.transpose(-1, -2), weights, -1, weights.dtype)
        dK = rotate(dscores[..., first:].transpose(-1, -2) @ q, cos[first:], -sin[first:])
        dq = rotate(dscores @ K, cos[past:], -sin[past:]) * q.shape[-1] ** -0.5
        dpast = (dK[:, :, :past], dV[:, :, :past]) if not first else (None, None)
        dk, dv = (part[:, :, past - first :] for part in (dK, dV))
        return *(part.transpose(1, 2) for part in (dq, dk, dv)), *dpast, None, None, None
