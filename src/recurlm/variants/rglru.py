"""The real-gated linear recurrent unit of Griffin: how much is kept and how much is written both hang on one gate."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import BlockDiagonal, Recurrence, State
from recurlm.variants.linear import linear, scan, split

C = 8.0
SMALLEST = 1e-6  # of 1 − a², so that the slope of its root stays below 500


class RGLRU(Recurrence):
    """h' = a ⊙ h + √(1 − a²) ⊙ (i ⊙ u), a = exp(−c softplus(Λ) ⊙ r), u = W x (De et al. 2024, arXiv:2402.19427).

    The gates r, i = σ(W u + b) have block-diagonal matrices, one block a head. The output passes a gate as in Griffin's
    block, with a SiLU where that has a GELU.
    """

    gates = 2

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1) -> None:
        super().__init__()
        self.heads, size = heads, split(hidden_size, heads)
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.Wu, self.Wg = linear(input_size, hidden_size), linear(input_size, hidden_size)
        self.Wr, self.Wi = (BlockDiagonal(heads, size, size) for _ in range(2))
        self.br, self.bi = (nn.Parameter(torch.zeros(hidden_size)) for _ in range(2))
        a = torch.empty(hidden_size).uniform_(0.9**2, 0.999**2).sqrt()  # of an open gate r, to the power 1 / c
        self.L = nn.Parameter(torch.log(torch.expm1(-torch.log(a))))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        a, written = self._gated(self.Wu(x))
        y, h = scan(a, written, state["h"], reset)
        return y * F.silu(self.Wg(x)), {"h": h}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        a, written = self._gated(self.Wu(x))
        h = a * state["h"] + written
        return h * F.silu(self.Wg(x)), {"h": h}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        r, i = self._gates(self.Wu(x))
        return {"recurrence": r, "input": i}

    def _gated(self, u: Float[Tensor, "*batch hidden"]) -> tuple[Tensor, Tensor]:
        r, i = self._gates(u)
        a = torch.exp(-C * F.softplus(self.L) * r)
        return a, torch.sqrt((1 - a * a).clamp(min=SMALLEST)) * (i * u)

    def _gates(self, u: Float[Tensor, "*batch hidden"]) -> tuple[Tensor, Tensor]:
        parts = torch.unflatten(u, -1, (self.heads, -1))
        return torch.sigmoid(self.Wr(parts).flatten(-2) + self.br), torch.sigmoid(self.Wi(parts).flatten(-2) + self.bi)
