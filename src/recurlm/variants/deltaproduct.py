"""Gated DeltaProduct: several steps of the delta rule an element, so that a state is turned, not only reflected."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from recurlm.variants.base import State
from recurlm.variants.linear import Decay, HeadNorm, MatrixRecurrence, Writes, linear, read, unit


class DeltaProduct(MatrixRecurrence):
    """S ← α S, then S ← S + βᵢ kᵢ (vᵢ − Sᵀ kᵢ)ᵀ for i = 1 … n; o = S'ᵀ q (Siems et al. 2025, arXiv:2502.10297).

    Each I − βᵢ kᵢ kᵢᵀ reflects for β = 2, and two reflections are a rotation: with n steps a state follows permutations
    of n + 1 things.
    """

    gates = 2

    def __init__(
        self, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None, steps: int = 2
    ) -> None:
        super().__init__(hidden_size, heads, key_size)
        self.steps = steps
        self.Wq, self.Wk = linear(input_size, heads * self.key_size), linear(input_size, steps * heads * self.key_size)
        self.Wv, self.Wg = linear(input_size, steps * hidden_size), linear(input_size, hidden_size)
        self.Wb, self.decay = linear(input_size, steps * heads), Decay(linear(input_size, heads), heads)
        self.norm = HeadNorm(hidden_size)

    def writes(self, x: Float[Tensor, "batch time input"]) -> Writes:
        shape = (self.steps, self.heads, -1)
        k, v, b = (torch.unflatten(W(x), -1, shape) for W in (self.Wk, self.Wv, self.Wb))
        k, v, b = unit(F.silu(k)), F.silu(v), 2 * torch.sigmoid(b)
        q = unit(self.by_head(F.silu(self.Wq(x)))) * self.key_size**-0.5
        g = F.pad(self.decay(x)[..., None, :], (0, 0, 0, self.steps - 1))  # before the first step
        return Writes(q, *(part.flatten(1, 2) for part in (k, b * v, g, b * k)))

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        q, k, bv, g, bk = self.writes(x[:, None])
        S = torch.exp(g[:, 0])[..., None, None] * state["S"]
        for i in range(self.steps):
            S = S + k[:, i, :, :, None] * (bv[:, i] - read(S, bk[:, i]))[..., None, :]
        return self.output(read(S, q[:, 0]), x), {"S": S}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return {"forget": torch.exp(self.decay(x)), "write": torch.sigmoid(self.Wb(x))}

    def output(self, o: Float[Tensor, "*batch heads value"], x: Float[Tensor, "*batch input"]) -> Tensor:
        y: Tensor = self.norm(o) * F.silu(self.Wg(x))
        return y
