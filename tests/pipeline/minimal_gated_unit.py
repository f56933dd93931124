"""The minimal gated unit: a GRU whose two gates are one. A test adds it to a clone as a fifth variant."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recurlm.variants.base import Stack, product


class MGU(Stack):
    """h' = (1 − f) ⊙ h + f ⊙ n, with n = tanh(W x + U (f ⊙ h) + b) (Zhou et al. 2016, arXiv:1603.09420)."""

    gates = 1
    cell_states = ("h",)

    def make_layer(self, input_size: int, hidden_size: int) -> nn.Module:
        weights = {
            "Wf": torch.randn(hidden_size, input_size) * input_size**-0.5,
            "Uf": nn.init.orthogonal_(torch.empty(hidden_size, hidden_size)),
            "bf": torch.zeros(hidden_size),
            "W": torch.randn(hidden_size, input_size) * input_size**-0.5,
            "U": nn.init.orthogonal_(torch.empty(hidden_size, hidden_size)),
            "b": torch.zeros(hidden_size),
        }
        return nn.ParameterDict({name: nn.Parameter(value) for name, value in weights.items()})

    def run_layer(
        self, layer: nn.Module, x: Float[Tensor, "batch time input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> tuple[Float[Tensor, "batch time hidden"], Sequence[Float[Tensor, "batch hidden"]]]:
        y = []
        for t in range(x.shape[1]):
            state = self.step_layer(layer, x[:, t], state)
            y.append(state[0])
        return torch.stack(y, dim=1), state

    def step_layer(
        self, layer: nn.Module, x: Float[Tensor, "batch input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> Sequence[Float[Tensor, "batch hidden"]]:
        (h,) = state
        f = torch.sigmoid(product(x, layer["Wf"]) + product(h, layer["Uf"]) + layer["bf"])
        n = torch.tanh(product(x, layer["W"]) + product(f * h, layer["U"]) + layer["b"])
        return [(1 - f) * h + f * n]
