"""Retention: a matrix state a head that decays at a fixed rate, seen through a fixed rotation."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import HeadNorm, Writes, chunked, linear, read, rotate, scan, split, turn


class RetNet(Recurrence):
    """S' = γ S + k vᵀ and o = S'ᵀ q, with q and k rotated by n θ (Sun et al. 2023, arXiv:2307.08621).

    γ = 1 − 2^(−5 − head). The angle n θ is a state beside S, since only differences of positions count.
    """

    g: Tensor
    theta: Tensor

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None) -> None:
        super().__init__()
        self.heads, value = heads, split(hidden_size, heads)
        self.key_size = key_size or value
        self.output_size = hidden_size
        pairs = self.key_size // 2
        self.state_spec = {"S": (heads, self.key_size, value), "angle": (pairs,)}
        self.Wq, self.Wk = linear(input_size, heads * self.key_size), linear(input_size, heads * self.key_size)
        self.Wv, self.Wg = linear(input_size, hidden_size), linear(input_size, hidden_size)
        self.norm = HeadNorm(hidden_size)
        gamma = [math.log1p(-(2.0 ** (-5 - head))) for head in range(heads)]
        self.register_buffer("g", torch.tensor(gamma), persistent=False)
        self.register_buffer("theta", 10000.0 ** -torch.linspace(0, 1, pairs), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        ones = x.new_ones(*x.shape[:2], 1)
        angle, _ = scan(ones, ones * self.theta, state["angle"], reset)
        o, S = chunked(self._writes(x, turn(angle)), state["S"], reset)
        return self._output(o, x), {"S": S, "angle": turn(angle[:, -1])}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        angle = turn(state["angle"] + self.theta)
        q, k, v, g, _ = self._writes(x, angle)
        S = torch.exp(g)[..., None, None] * state["S"] + k[..., :, None] * v[..., None, :]
        return self._output(read(S, q), x), {"S": S, "angle": angle}

    def _writes(self, x: Float[Tensor, "*batch input"], angle: Float[Tensor, "*batch pairs"]) -> Writes:
        q, k, v = (torch.unflatten(W(x), -1, (self.heads, -1)) for W in (self.Wq, self.Wk, self.Wv))
        cos, sin = torch.cos(angle)[..., None, :], torch.sin(angle)[..., None, :]
        q, k = rotate(q, cos, sin), rotate(k * self.key_size**-0.5, cos, sin)
        return Writes(q, k, v, self.g.expand(*x.shape[:-1], -1))

    def _output(self, o: Float[Tensor, "*batch heads value"], x: Float[Tensor, "*batch input"]) -> Tensor:
        y: Tensor = self.norm(o) * F.silu(self.Wg(x))
        return y
