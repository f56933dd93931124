"""The simple recurrent unit: all products read the input alone, and the gates peep at their own unit's state."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State
from recurlm.variants.loop import diagonal_over_time


class SRU(Recurrence):
    """c' = f ⊙ c + (1 − f) ⊙ W x and y = r ⊙ c' + (1 − r) ⊙ x (Lei et al. 2018, arXiv:1709.02755).

    f = σ(Wf x + vf ⊙ c + bf) and r = σ(Wr x + vr ⊙ c + br). Where x is of another size, the highway has a product too.
    """

    gates = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"c": (hidden_size,)}
        self.W = nn.Linear(input_size, 3 * hidden_size)
        self.highway = nn.Identity() if input_size == hidden_size else nn.Linear(input_size, hidden_size, bias=False)
        bound = math.sqrt(3 / input_size)
        nn.init.uniform_(self.W.weight, -bound, bound)
        nn.init.zeros_(self.W.bias)
        self.vf, self.vr = (nn.Parameter(torch.empty(hidden_size).uniform_(-1, 1) * math.sqrt(1.5)) for _ in range(2))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        return diagonal_over_time(self._cell, self._driven(x), {"c": state["c"]}, reset, (self.vf, self.vr))

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        return self._cell(self._driven(x), state)

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        f, r = self._gates(self._driven(x), state)
        return {"forget": f, "reset": r}

    def _driven(self, x: Float[Tensor, "*batch input"]) -> Tensor:
        return torch.cat([self.W(x), self.highway(x)], dim=-1)

    def _cell(self, a: Float[Tensor, "batch driven"], state: State) -> tuple[Tensor, State]:
        c = state["c"]
        Wx, _, _, x = a.chunk(4, dim=-1)
        f, r = self._gates(a, state)
        c = f * c + (1 - f) * Wx
        return r * c + (1 - r) * x, {"c": c}

    def _gates(self, a: Float[Tensor, "batch driven"], state: State) -> tuple[Tensor, Tensor]:
        _, Wf, Wr, _ = a.chunk(4, dim=-1)
        return torch.sigmoid(Wf + self.vf * state["c"]), torch.sigmoid(Wr + self.vr * state["c"])
