"""HGRN2: the gates of HGRN on a matrix state. What a key dimension forgets makes room for what is written to it."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import State
from recurlm.variants.linear import HeadNorm, MatrixRecurrence, Writes, bounded, gate, linear, read


class HGRN2(MatrixRecurrence):
    """S' = diag(f) S + (1 − f) vᵀ and o = S'ᵀ q, f = γ + (1 − γ) ⊙ σ(Wf x) (Qin et al. 2024, arXiv:2404.07904).

    The floor γ is learned for each layer by itself; the paper adds it up over layers, of which a cell knows nothing.
    """

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None) -> None:
        super().__init__(hidden_size, heads, key_size)
        keys = heads * self.key_size
        self.Wq, self.Wf, self.Wv = (linear(input_size, size) for size in (keys, keys, hidden_size))
        self.floor = nn.Parameter(torch.full((keys,), -2.0))  # γ = 0.12
        self.norm = HeadNorm(hidden_size)

    def writes(self, x: Float[Tensor, "*batch input"]) -> Writes:
        floor = torch.sigmoid(self.floor)
        f = self.by_head(floor + (1 - floor) * gate(self.Wf(x)))
        q, v = self.by_head(F.silu(self.Wq(x))), self.by_head(self.Wv(x))
        return Writes(q, 1 - f, v, bounded(torch.log(f + 1e-6)))

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        q, k, v, log_f, _ = self.writes(x)
        S = torch.exp(log_f)[..., None] * state["S"] + k[..., :, None] * v[..., None, :]
        return self.output(read(S, q), x), {"S": S}

    def output(self, o: Float[Tensor, "*batch heads value"], x: Float[Tensor, "*batch input"]) -> Tensor:
        y: Tensor = self.norm(o)
        return y
