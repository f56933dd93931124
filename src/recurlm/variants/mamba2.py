"""Mamba-2: a matrix state a head, with one decay that the input chooses."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import HeadNorm, Writes, chunked, linear, read, split, step_size_bias


class Mamba2(Recurrence):
    """h' = exp(Δ A) h + Δ B xᵀ and y = h'ᵀ C + D x (Dao & Gu 2024, arXiv:2405.21060), Δ = softplus(W x + b), A < 0.

    B and C are the same for all heads. The short convolution is that of the block around the cell.
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None) -> None:
        super().__init__()
        self.heads, value_size = heads, split(hidden_size, heads)
        key_size = key_size or value_size
        self.output_size = hidden_size
        self.state_spec = {"h": (heads, key_size, value_size)}
        self.Wx, self.Wz = linear(input_size, hidden_size), linear(input_size, hidden_size)
        self.WB, self.WC = linear(input_size, key_size), linear(input_size, key_size)
        self.Wdt = linear(input_size, heads)
        self.dt_bias = nn.Parameter(step_size_bias(heads))
        self.A_log = nn.Parameter(torch.empty(heads).uniform_(1, 16).log_())
        self.D = nn.Parameter(torch.ones(heads))
        self.norm = HeadNorm(hidden_size)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        v, z, writes = self._parts(x)
        y, h = chunked(writes, state["h"], reset)
        return self._output(y, v, z), {"h": h}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        v, z, (C, B, dt_v, dt_A, _) = self._parts(x)
        h = torch.exp(dt_A)[..., None, None] * state["h"] + B[..., :, None] * dt_v[..., None, :]
        return self._output(read(h, C), v, z), {"h": h}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return {"forget": torch.exp(self._parts(x)[2].g)}

    def _parts(self, x: Float[Tensor, "*batch input"]) -> tuple[Tensor, Tensor, Writes]:
        v, z = (torch.unflatten(W(x), -1, (self.heads, -1)) for W in (self.Wx, self.Wz))
        B, C = (W(x)[..., None, :].expand(*x.shape[:-1], self.heads, -1) for W in (self.WB, self.WC))
        dt = F.softplus(self.Wdt(x) + self.dt_bias)
        return v, z, Writes(C, B, dt[..., None] * v, -torch.exp(self.A_log) * dt)

    def _output(self, y: Tensor, v: Tensor, z: Tensor) -> Tensor:
        normed: Tensor = self.norm((y + self.D[:, None] * v) * F.silu(z))
        return normed
