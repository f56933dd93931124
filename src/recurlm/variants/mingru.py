"""minGRU: a GRU without what made it sequential. Gate and candidate read the input alone."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import gate, positive, scan


class MinGRU(Recurrence):
    """h' = (1 − z) ⊙ h + z ⊙ g(W x), z = σ(Wz x) (Feng et al. 2024, arXiv:2410.01201).

    g(u) = u + 1/2 for u ≥ 0, else σ(u).
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.Wz, self.Wh = nn.Linear(input_size, hidden_size), nn.Linear(input_size, hidden_size)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        z = gate(self.Wz(x))
        y, h = scan(1 - z, z * positive(self.Wh(x)), state["h"], reset)
        return y, {"h": h}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        z = gate(self.Wz(x))
        h = (1 - z) * state["h"] + z * positive(self.Wh(x))
        return h, {"h": h}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return {"update": gate(self.Wz(x))}
