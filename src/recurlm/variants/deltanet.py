"""DeltaNet: a matrix state that replaces what stood at a key, in place of adding to it."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recurlm.variants.base import State
from recurlm.variants.linear import HeadNorm, MatrixRecurrence, Writes, linear, read, unit


class DeltaNet(MatrixRecurrence):
    """S' = S + β k (v − Sᵀ k)ᵀ and o = S'ᵀ q, with ‖k‖ = ‖q‖ = 1 (Yang et al. 2024, arXiv:2406.06484).

    With β up to 2, I − β k kᵀ has negative eigenvalues, which parity needs (Grazzi et al. 2024, arXiv:2411.12537).
    """

    gates = 1

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
        self.Wv, self.Wb = linear(input_size, hidden_size), linear(input_size, heads)
        self.norm = HeadNorm(hidden_size)

    def writes(self, x: Float[Tensor, "*batch input"]) -> Writes:
        q, k, v = (self.by_head(F.silu(W(x))) for W in (self.Wq, self.Wk, self.Wv))
        q, k = unit(q), unit(k)
        b = self.beta_max * torch.sigmoid(self.Wb(x))[..., None]
        return Writes(q, k, b * v, torch.zeros_like(b[..., 0]), b * k)

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        S = state["S"]
        q, k, bv, _, bk = self.writes(x)
        S = S + k[..., :, None] * (bv - read(S, bk))[..., None, :]
        return self.output(read(S, q), x), {"S": S}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return {"write": torch.sigmoid(self.Wb(x))}

    def output(self, o: Float[Tensor, "*batch heads value"], x: Float[Tensor, "*batch input"]) -> Tensor:
        y: Tensor = self.norm(o)
        return y
