"""The mogrifier LSTM: input and state gate each other a few times before the LSTM reads them."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State, product
from recurlm.variants.loop import over_time


class Mogrifier(Recurrence):
    """x ← 2σ(Q h) ⊙ x and h ← 2σ(R x) ⊙ h in turns, then an LSTM (Melis, Kočiský & Blunsom 2019, arXiv:1909.01792)."""

    gates = 3

    def __init__(self, input_size: int, hidden_size: int, rounds: int = 5, rank: int = 32) -> None:
        """`rank` is that of the matrices Q and R, as products of two factors."""
        super().__init__()
        self.rounds = rounds
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,), "c": (hidden_size,)}
        sizes = (input_size, hidden_size)

        def gate(to: int, of: int) -> nn.Module:
            return nn.Sequential(nn.Linear(of, rank, bias=False), nn.Linear(rank, to))

        self.over_state = tuple(f"gates_of.{r}" for r in range(0, rounds, 2))  # Q
        self.gates_of = nn.ModuleList(gate(sizes[r % 2], sizes[1 - r % 2]) for r in range(rounds))
        self.W = nn.Linear(input_size, 4 * hidden_size)
        self.U = nn.Parameter(torch.cat([nn.init.orthogonal_(torch.empty(hidden_size, hidden_size)) for _ in range(4)]))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        return over_time(self.step, x, state, reset)

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        i, f, g, o = self._gates(x, state)
        c = f * state["c"] + i * g
        h = o * torch.tanh(c)
        return h, {"h": h, "c": c}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        i, f, _, o = self._gates(x, state)
        return {"input": i, "forget": f, "output": o}

    def _gates(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        h = state["h"]
        for r, gate in enumerate(self.gates_of):
            if r % 2 == 0:
                x = 2 * torch.sigmoid(gate(h)) * x
            else:
                h = 2 * torch.sigmoid(gate(x)) * h
        i, f, g, o = (self.W(x) + product(h, self.U)).chunk(4, dim=-1)
        return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
