"""The minimal gated unit: a GRU whose two gates are one. A test adds it to a clone as a new cell."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State, mask_state, product


class MGU(Recurrence):
    """h' = (1 − f) ⊙ h + f ⊙ n, with n = tanh(W x + U (f ⊙ h) + b) (Zhou et al. 2016, arXiv:1603.09420)."""

    gates = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.Wf = nn.Parameter(torch.randn(hidden_size, input_size) * input_size**-0.5)
        self.Uf = nn.Parameter(nn.init.orthogonal_(torch.empty(hidden_size, hidden_size)))
        self.bf = nn.Parameter(torch.zeros(hidden_size))
        self.W = nn.Parameter(torch.randn(hidden_size, input_size) * input_size**-0.5)
        self.U = nn.Parameter(nn.init.orthogonal_(torch.empty(hidden_size, hidden_size)))
        self.b = nn.Parameter(torch.zeros(hidden_size))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        outputs = []
        for t in range(x.shape[1]):
            if reset is not None:
                state = mask_state(state, ~reset[:, t])
            y, state = self.step(x[:, t], state)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        h = state["h"]
        f = torch.sigmoid(product(x, self.Wf) + product(h, self.Uf) + self.bf)
        n = torch.tanh(product(x, self.W) + product(f * h, self.U) + self.b)
        h = (1 - f) * h + f * n
        return h, {"h": h}
