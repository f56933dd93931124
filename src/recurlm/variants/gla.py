"""Gated linear attention: a matrix state whose every key dimension decays at a rate of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recurlm.variants.base import State
from recurlm.variants.linear import HeadNorm, MatrixRecurrence, Writes, bounded, linear, read

RANK, TAU = 16, 16.0  # of the gate's product; the gate's temperature


class GLA(MatrixRecurrence):
    """S' = diag(α) S + k vᵀ and o = S'ᵀ q, α = σ(W₂ W₁ x + b)^(1/τ) (Yang et al. 2023, arXiv:2312.06635)."""

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None) -> None:
        super().__init__(hidden_size, heads, key_size)
        keys = heads * self.key_size
        self.Wq, self.Wk = linear(input_size, keys), linear(input_size, keys)
        self.Wv, self.Wr = linear(input_size, hidden_size), linear(input_size, hidden_size)
        self.Wa = linear(input_size, RANK, keys)
        self.b = torch.nn.Parameter(torch.zeros(keys))
        self.norm = HeadNorm(hidden_size)

    def writes(self, x: Float[Tensor, "*batch input"]) -> Writes:
        q, k, v = (self.by_head(W(x)) for W in (self.Wq, self.Wk, self.Wv))
        g = bounded(-F.softplus(-(self.Wa(x) + self.b)) / TAU)  # log α
        return Writes(q * self.key_size**-0.5, k, v, self.by_head(g))

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        q, k, v, g, _ = self.writes(x)
        S = torch.exp(g)[..., None] * state["S"] + k[..., :, None] * v[..., None, :]
        return self.output(read(S, q), x), {"S": S}

    def output(self, o: Float[Tensor, "*batch heads value"], x: Float[Tensor, "*batch input"]) -> Tensor:
        y: Tensor = self.norm(o) * F.silu(self.Wr(x))
        return y
