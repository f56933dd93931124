"""The simple recurrent network: no gates, one state, the shortest memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recurlm.variants.base import Stack, orthogonal_, product


class RNN(Stack):
    """h' = φ(W x + U h + b), with φ = tanh or relu (Elman 1990, "Finding structure in time")."""

    gates = 0
    cell_states = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        layers: int = 1,
        dropout: float = 0.0,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, layers, dropout)

    def make_layer(self, input_size: int, hidden_size: int) -> nn.Module:
        layer = nn.RNN(input_size, hidden_size, nonlinearity=self.nonlinearity, batch_first=True)
        orthogonal_(layer, gates=1)
        return layer

    def run_layer(
        self, layer: nn.Module, x: Float[Tensor, "batch time input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> tuple[Float[Tensor, "batch time hidden"], Sequence[Float[Tensor, "batch hidden"]]]:
        y, h = layer(x, state[0][None])
        return y, [h[0]]

    def step_layer(
        self, layer: nn.Module, x: Float[Tensor, "batch input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> Sequence[Float[Tensor, "batch hidden"]]:
        (h,) = state
        φ = torch.tanh if self.nonlinearity == "tanh" else torch.relu
        W, U, b, d = layer.parameters()
        return [φ(product(x, W) + product(h, U) + (b + d))]
