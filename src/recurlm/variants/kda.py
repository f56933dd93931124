"""Kimi delta attention: the delta rule on a state whose every key dimension decays at a rate of its own."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recurlm.variants.base import State
from recurlm.variants.linear import Decay, HeadNorm, MatrixRecurrence, Writes, bounded, linear, products, read, unit


class KDA(MatrixRecurrence):
    """S̃ = diag(α) S, S' = S̃ + β k (v − S̃ᵀ k)ᵀ and o = S'ᵀ q, ‖k‖ = ‖q‖ = 1 (Kimi Team 2025, arXiv:2510.26692).

    α and the output's gate come from products of low rank, of one head's width.
    """

    gates = 3

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None) -> None:
        super().__init__(hidden_size, heads, key_size)
        keys, rank = heads * self.key_size, self.value_size
        self.Wq, self.Wk, self.Wv = (linear(input_size, size) for size in (keys, keys, hidden_size))
        self.Wb, self.Wg = linear(input_size, heads), linear(input_size, rank, hidden_size)
        self.decay = Decay(linear(input_size, rank, keys), keys, repeats=self.key_size)
        self.norm = HeadNorm(hidden_size)

    def writes(self, x: Float[Tensor, "*batch input"]) -> Writes:
        *qkv, b = products(x, self.Wq, self.Wk, self.Wv, self.Wb)
        q, k, v = (self.by_head(F.silu(part)) for part in qkv)
        q, k, b = unit(q) * self.key_size**-0.5, unit(k), torch.sigmoid(b)[..., None]
        return Writes(q, k, b * v, self.by_head(bounded(self.decay(x))), b * k)

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        q, k, bv, g, bk = self.writes(x)
        S = torch.exp(g)[..., None] * state["S"]
        S = S + k[..., :, None] * (bv - read(S, bk))[..., None, :]
        return self.output(read(S, q), x), {"S": S}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        forget = super().gate_activations(x, state)
        return forget | {"write": torch.sigmoid(self.Wb(x)), "output": torch.sigmoid(self.Wg(x))}

    def output(self, o: Float[Tensor, "*batch heads value"], x: Float[Tensor, "*batch input"]) -> Tensor:
        y: Tensor = self.norm(o) * torch.sigmoid(self.Wg(x))
        return y
