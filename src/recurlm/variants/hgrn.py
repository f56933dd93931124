"""The hierarchically gated recurrent network: a forget gate with a floor, so that upper layers can remember longer."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import gate, scan


class HGRN(Recurrence):
    """h' = f ⊙ h + (1 − f) ⊙ silu(W x) and y = silu(Wg x) ⊙ h' (Qin, Yang & Zhong 2023, arXiv:2311.04823).

    f = γ + (1 − γ) ⊙ σ(Wf x). The floor γ is learned for each layer by itself; the paper adds it up over layers, of
    which a cell knows nothing. Its states are complex, ours are real.
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.Wf, self.Wi, self.Wg = (nn.Linear(input_size, hidden_size) for _ in range(3))
        self.floor = nn.Parameter(torch.full((hidden_size,), -2.0))  # γ = 0.12

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        f = self._forget(x)
        y, h = scan(f, (1 - f) * F.silu(self.Wi(x)), state["h"], reset)
        return y * F.silu(self.Wg(x)), {"h": h}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        f = self._forget(x)
        h = f * state["h"] + (1 - f) * F.silu(self.Wi(x))
        return h * F.silu(self.Wg(x)), {"h": h}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return {"forget": self._forget(x)}

    def _forget(self, x: Float[Tensor, "*batch input"]) -> Tensor:
        floor = torch.sigmoid(self.floor)
        return floor + (1 - floor) * gate(self.Wf(x))
