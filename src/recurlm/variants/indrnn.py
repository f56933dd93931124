"""The independently recurrent network: each unit reads its own past alone, so its memory is one number, u."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State
from recurlm.variants.loop import diagonal_over_time


class IndRNN(Recurrence):
    """h' = relu(W x + u ⊙ h + b), |u| ≤ 1 (Li et al. 2018, arXiv:1803.04831).

    The paper's bound, 2^(1/T) for texts of T elements, is 1 where a text may have any length.
    """

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.W = nn.Linear(input_size, hidden_size)
        self.u = nn.Parameter(torch.rand(hidden_size))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        return diagonal_over_time(self._cell, self.W(x), {"h": state["h"]}, reset, (self.u,))

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        return self._cell(self.W(x), state)

    def _cell(self, Wx: Float[Tensor, "batch hidden"], state: State) -> tuple[Tensor, State]:
        h = torch.relu(Wx + self._bounded() * state["h"])
        return h, {"h": h}

    def _bounded(self) -> Tensor:
        """u, cut at ±1; its slope is 1 beyond too, else a unit that came there would stay for ever."""
        bounded = self.u.clamp(-1, 1)
        return bounded.detach() + (self.u - self.u.detach()) if torch.is_grad_enabled() else bounded
