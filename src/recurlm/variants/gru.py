"""The gated recurrent unit: two gates, one state, less to compute than an LSTM."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State, orthogonal_, product
from recurlm.variants.loop import GRUChunk, by_chunk, over_time

INPUT_GAIN = 0.5  # of fresh input matrices: gates start half open


class GRU(Recurrence):
    """h' = (1 − z) ⊙ n + z ⊙ h (Cho et al. 2014, arXiv:1406.1078).

    With `reset_after` the reset gate acts after the product, n = tanh(W x + b + r ⊙ (U h + d)), as in cuDNN and torch:
    one product serves all three. Without, it acts on h, as in the paper: n = tanh(W x + b + U (r ⊙ h) + d).
    """

    gates = 2

    def __init__(self, input_size: int, hidden_size: int, reset_after: bool = True) -> None:
        super().__init__()
        self.reset_after = reset_after
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True)
        orthogonal_(self.gru, gates=3, gain=INPUT_GAIN)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        if not self.reset_after:
            W, _, b, _ = self.gru.parameters()
            return over_time(self._cell, nn.functional.linear(x, W, b), state, reset)
        if x.is_cuda and reset is None:  # cuDNN
            y, h = self.gru(x, state["h"][None])
            return y, {"h": h[0]}
        y, h = by_chunk(GRUChunk, x, state["h"], *self.gru.parameters(), reset)
        return y, {"h": h}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        W, _, b, _ = self.gru.parameters()
        return self._cell(product(x, W) + b, state)

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        W, _, b, _ = self.gru.parameters()
        r, z, _ = self._activations(product(x, W) + b, state["h"])
        return {"reset": r, "update": z}

    def _cell(self, Wx: Float[Tensor, "batch gates"], state: State) -> tuple[Tensor, State]:
        _, z, n = self._activations(Wx, state["h"])
        h = (1 - z) * n + z * state["h"]
        return h, {"h": h}

    def _activations(
        self, Wx: Float[Tensor, "batch gates"], h: Float[Tensor, "batch hidden"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        _, U, _, d = self.gru.parameters()
        sizes = [2 * self.output_size, self.output_size]
        W_rz, W_n = torch.split(Wx, sizes, dim=-1)
        if self.reset_after:
            U_rz, U_n = torch.split(product(h, U) + d, sizes, dim=-1)
            r, z = torch.sigmoid(W_rz + U_rz).chunk(2, dim=-1)  # one evaluation for both
            return r, z, torch.tanh(W_n + r * U_n)
        (U_rz, U_n), (d_rz, d_n) = torch.split(U, sizes), torch.split(d, sizes)
        r, z = torch.sigmoid(W_rz + product(h, U_rz) + d_rz).chunk(2, dim=-1)
        return r, z, torch.tanh(W_n + product(r * h, U_n) + d_n)
