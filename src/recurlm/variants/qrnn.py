"""The quasi-recurrent network: convolutions make the gates, and only a pooling runs over time."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import before, gate, scan


class QRNN(Recurrence):
    """c' = f ⊙ c + (1 − f) ⊙ z and y = o ⊙ c' (Bradbury et al. 2016, arXiv:1611.01576, fo-pooling).

    z, f and o are tanh and sigmoids of a convolution over the input and the one before it, which is a state too.
    """

    gates = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"c": (hidden_size,), "x": (input_size,)}
        self.Wz, self.Wf, self.Wo = (nn.Linear(2 * input_size, hidden_size) for _ in range(3))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        z, f, o = self._gates(before(x, state["x"], reset), x)
        y, c = scan(f, (1 - f) * z, state["c"], reset)
        return o * y, {"c": c, "x": x[:, -1].to(c.dtype)}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        z, f, o = self._gates(state["x"], x)
        c = f * state["c"] + (1 - f) * z
        return o * c, {"c": c, "x": x}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        _, f, o = self._gates(state["x"], x)
        return {"forget": f, "output": o}

    def _gates(self, last: Float[Tensor, "*batch input"], x: Float[Tensor, "*batch input"]) -> tuple[Tensor, ...]:
        both = torch.cat([last.to(x.dtype), x], dim=-1)
        return torch.tanh(self.Wz(both)), gate(self.Wf(both)), torch.sigmoid(self.Wo(both))
