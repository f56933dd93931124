"""The gated recurrent unit: two gates, one state, less to compute than an LSTM."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recurlm.variants.base import Stack, orthogonal_, product


class GRU(Stack):
    """h' = (1 − z) ⊙ n + z ⊙ h (Cho et al. 2014, arXiv:1406.1078).

    The reset gate acts on U h after the product, as in cuDNN and torch, so that one product serves all three.
    """

    gates = 2
    cell_states = ("h",)

    def make_layer(self, input_size: int, hidden_size: int) -> nn.Module:
        layer = nn.GRU(input_size, hidden_size, batch_first=True)
        orthogonal_(layer, gates=3)
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
        W, U, b, d = layer.parameters()
        Wr, Wz, Wn = (product(x, W) + b).chunk(3, dim=-1)
        Ur, Uz, Un = (product(h, U) + d).chunk(3, dim=-1)
        r, z = torch.sigmoid(Wr + Ur), torch.sigmoid(Wz + Uz)
        n = torch.tanh(Wn + r * Un)
        return [(1 - z) * n + z * h]
