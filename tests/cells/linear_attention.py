"""Linear attention with a forget gate: a cell whose state is a matrix a head. It stands for all states of rank > 1."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State, mask_state


class LinearAttention(Recurrence):
    """S' = f S + k vᵀ and y = S'ᵀ q in each head (Katharopoulos et al. 2020, arXiv:2006.16236).

    q and k have length 1 (as in DeltaNet, arXiv:2406.06484), and the forget gate f is one number a head (as in Mamba-2,
    arXiv:2405.21060).
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, heads: int = 3, key_size: int = 5) -> None:
        super().__init__()
        self.heads = heads
        self.output_size = hidden_size
        self.state_spec = {"S": (heads, key_size, hidden_size // heads)}
        self.query = nn.Linear(input_size, heads * key_size, bias=False)
        self.key = nn.Linear(input_size, heads * key_size, bias=False)
        self.value = nn.Linear(input_size, hidden_size, bias=False)
        self.forget = nn.Linear(input_size, heads)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        y = []
        for t in range(x.shape[1]):
            if reset is not None:
                state = mask_state(state, ~reset[:, t])
            output, state = self.step(x[:, t], state)
            y.append(output)
        return torch.stack(y, dim=1), state

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        q, k, v = (part(x).unflatten(-1, (self.heads, -1)) for part in (self.query, self.key, self.value))
        f = torch.sigmoid(self.forget(x))
        q, k = (z / torch.sqrt((z * z).sum(dim=-1, keepdim=True) + 1e-6) for z in (q, k))
        S = f[..., None, None] * state["S"] + torch.matmul(k[..., :, None], v[..., None, :])
        return torch.matmul(q[..., None, :], S).flatten(1), {"S": S}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return {"forget": torch.sigmoid(self.forget(x))}
