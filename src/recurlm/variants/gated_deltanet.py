"""Gated DeltaNet: the delta rule on a state that decays."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recurlm.variants.base import State
from recurlm.variants.linear import Decay, HeadNorm, MatrixRecurrence, Writes, linear, products, read, unit


class GatedDeltaNet(MatrixRecurrence):
    """S' = α S + β k (v − α Sᵀ k)ᵀ and o = S'ᵀ q, with ‖k‖ = ‖q‖ = 1 (Yang et al. 2024, arXiv:2412.06464).

    With β up to 2, I − β k kᵀ has negative eigenvalues, which parity needs (Grazzi et al. 2024, arXiv:2411.12537).
    """

    gates = 2

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        heads: int = 1,
        key_size: int | None = None,
        beta_max: Literal[1, 2] = 1,
    ) -> None:
        super().__init__(hidden_size, heads, key_size)
        self.beta_max = beta_max
        self.Wq, self.Wk = (linear(input_size, heads * self.key_size) for _ in range(2))
        self.Wv, self.Wg = (linear(input_size, hidden_size) for _ in range(2))
        self.Wb, self.decay = linear(input_size, heads), Decay(linear(input_size, heads), heads)
        self.norm = HeadNorm(hidden_size)

    def writes(self, x: Float[Tensor, "*batch input"]) -> Writes:
        *qkv, b, a = products(x, self.Wq, self.Wk, self.Wv, self.Wb, self.decay.product)
        q, k, v = (self.by_head(F.silu(part)) for part in qkv)
        q, k, b = unit(q) * self.key_size**-0.5, unit(k), self.beta_max * torch.sigmoid(b)[..., None]
        return Writes(q, k, b * v, self.decay.of(a), b * k)

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        q, k, bv, g, bk = self.writes(x)
        S = torch.exp(g)[..., None, None] * state["S"]
        S = S + k[..., :, None] * (bv - read(S, bk))[..., None, :]
        return self.output(read(S, q), x), {"S": S}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return {"forget": torch.exp(self.decay(x)), "write": torch.sigmoid(self.Wb(x))}

    def output(self, o: Float[Tensor, "*batch heads value"], x: Float[Tensor, "*batch input"]) -> Tensor:
        y: Tensor = self.norm(o) * F.silu(self.Wg(x))
        return y
