"""ParaGRU: a GRU whose units read their own past alone."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State
from recurlm.variants.loop import diagonal_over_time


class ParaGRU(Recurrence):
    """h' = (1 − z) ⊙ h + z ⊙ tanh(a ⊙ (h ⊙ r) + B x + b) (Danieli et al. 2025, arXiv:2510.21450).

    z and r = σ(a ⊙ h + B x + b), each with its own a, B and b. The paper solves a chunk by Newton's method in parallel;
    on a CPU the loop over elementwise steps is exact and cheap. Its matrices B are block-diagonal, ours full.
    """

    gates = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.B = nn.Linear(input_size, 3 * hidden_size)
        self.az, self.ar, self.ah = (nn.Parameter(torch.empty(hidden_size).uniform_(-1, 1)) for _ in range(3))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        return diagonal_over_time(self._cell, self.B(x), {"h": state["h"]}, reset, (self.az, self.ar, self.ah))

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        return self._cell(self.B(x), state)

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        z, r = self._gates(self.B(x), state)
        return {"update": z, "reset": r}

    def _cell(self, Bx: Float[Tensor, "batch gates"], state: State) -> tuple[Tensor, State]:
        h = state["h"]
        z, r = self._gates(Bx, state)
        h = (1 - z) * h + z * torch.tanh(self.ah * (h * r) + Bx.chunk(3, dim=-1)[2])
        return h, {"h": h}

    def _gates(self, Bx: Float[Tensor, "batch gates"], state: State) -> tuple[Tensor, Tensor]:
        Bz, Br, _ = Bx.chunk(3, dim=-1)
        return torch.sigmoid(self.az * state["h"] + Bz), torch.sigmoid(self.ar * state["h"] + Br)
