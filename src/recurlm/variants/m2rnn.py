"""M²RNN: a matrix state that passes a nonlinearity, so that it can correct itself where linear ones only add up."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import BlockDiagonal, Recurrence, State
from recurlm.variants.linear import Decay, HeadNorm, linear, read, split
from recurlm.variants.loop import over_time


class M2RNN(Recurrence):
    """H' = f H + (1 − f) tanh(H W + k vᵀ) and y = H'ᵀ q + D v (2026, arXiv:2603.14360).

    W is a matrix a head, the identity at first; q and k are the same for all heads, and f = exp(−exp(A) softplus(…)) is
    one number a head.
    """

    gates = 1
    over_state = ("W",)

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None) -> None:
        super().__init__()
        self.heads, value = heads, split(hidden_size, heads)
        self.key_size = key_size or value
        self.output_size = hidden_size
        self.state_spec = {"H": (heads, self.key_size, value)}
        self.sizes = [self.key_size, self.key_size, hidden_size, heads]
        self.Wq, self.Wk = (linear(input_size, self.key_size) for _ in range(2))
        self.Wv, self.Wg = (linear(input_size, hidden_size) for _ in range(2))
        self.decay = Decay(linear(input_size, heads), heads)
        self.W = BlockDiagonal(heads, value, value)
        for block in self.W.blocks:
            nn.init.eye_(block)
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = HeadNorm(hidden_size)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        y, state = over_time(self._cell, self._driven(x), state, reset)
        return self._output(y, x), state

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        y, state = self._cell(self._driven(x), state)
        return self._output(y, x), state

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return {"forget": torch.exp(self.decay(x))}

    def _driven(self, x: Float[Tensor, "*batch input"]) -> Tensor:
        q, k, v = (F.silu(W(x)) for W in (self.Wq, self.Wk, self.Wv))
        return torch.cat([q, k * self.key_size**-0.5, v, torch.exp(self.decay(x))], dim=-1)

    def _cell(self, a: Float[Tensor, "batch driven"], state: State) -> tuple[Tensor, State]:
        H = state["H"]
        q, k, v, f = torch.split(a, self.sizes, dim=-1)
        q, k, v, f = q[:, None, :], k[:, None, :, None], torch.unflatten(v, -1, (self.heads, -1)), f[..., None, None]
        H = f * H + (1 - f) * torch.tanh(self.W(H.transpose(1, 2)).transpose(1, 2) + k * v[..., None, :])
        return read(H, q.expand(-1, self.heads, -1)) + self.D[:, None] * v, {"H": H}

    def _output(self, y: Float[Tensor, "*batch heads value"], x: Float[Tensor, "*batch input"]) -> Tensor:
        normed: Tensor = self.norm(y) * F.silu(self.Wg(x))
        return normed
