"""A cell whose state is a matrix a head: gated linear attention, for tests of states of any rank."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State, mask_state

HEADS, KEYS, VALUES = 2, 3, 4


class LinearAttention(Recurrence):
    """S' = g S + k vᵀ and y = S'ᵀ q in each head, with a scalar decay g (as in Yang et al. 2023, arXiv:2312.06635)."""

    gates = 1

    def __init__(self, input_size: int, hidden_size: int) -> None:
        """`hidden_size` is of no use here: the sizes are those of this file."""
        super().__init__()
        self.output_size = HEADS * VALUES
        self.state_spec = {"S": (HEADS, KEYS, VALUES)}
        self.projections = nn.Linear(input_size, HEADS * (2 * KEYS + VALUES))
        self.decay = nn.Linear(input_size, HEADS)

    def forward(self, x: Tensor, state: State, reset: Tensor | None = None) -> tuple[Tensor, State]:
        outputs = []
        for t in range(x.shape[1]):
            state = state if reset is None else mask_state(state, ~reset[:, t])
            y, state = self.step(x[:, t], state)
            outputs.append(y)
        return torch.stack(outputs, dim=1), state

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        q, k, v = torch.tanh(self.projections(x)).view(len(x), HEADS, -1).split([KEYS, KEYS, VALUES], dim=-1)
        g = torch.sigmoid(self.decay(x))[..., None, None]
        S = g * state["S"] + k[..., :, None] * v[..., None, :]  # noqa: N806
        return (q[..., :, None] * S).sum(dim=-2).flatten(1), {"S": S}

    def gate_activations(self, x: Tensor, state: State) -> dict[str, Tensor]:
        return {"decay": torch.sigmoid(self.decay(x))}
