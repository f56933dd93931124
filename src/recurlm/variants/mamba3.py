"""Mamba-3: Mamba-2 with a trapezoidal rule over two elements, and keys that turn by angles that the input chooses."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import (
    Writes,
    before,
    chunked,
    linear,
    normed,
    read,
    rotate,
    scan,
    split,
    step_size_bias,
    turn,
)

SMALLEST = 1e-4  # of −A


class Mamba3(Recurrence):
    """h' = α h + (1 − λ) Δ α k₋ v₋ᵀ + λ Δ k vᵀ and y = h'ᵀ q + D v, α = exp(Δ A) (2026, arXiv:2603.15569).

    k₋ and v₋ are those of the element before. k and q are B and C, normalized, with a bias a head, and a part of their
    pairs turned by an angle that grows by Δ π tanh(Wθ x): so the state turns as a complex one would, as parity needs.
    """

    gates = 2

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None) -> None:
        super().__init__()
        self.heads, value = heads, split(hidden_size, heads)
        key = key_size or value
        if key < 2:
            raise ValueError(f"a key of {key} has no pair that turns")
        pairs = max(1, key // 4)
        self.output_size = hidden_size
        self.state_spec = {"h": (heads, key, value), "angle": (heads, pairs), "k": (heads, key), "v": (heads, value)}
        self.Wx, self.Wz = (linear(input_size, hidden_size) for _ in range(2))
        self.WB, self.WC = (linear(input_size, key) for _ in range(2))
        self.WA, self.Wdt, self.Wlambda = (linear(input_size, heads) for _ in range(3))
        self.Wtheta = linear(input_size, pairs)
        self.bB, self.bC = (nn.Parameter(torch.ones(heads * key)) for _ in range(2))
        self.dt_bias, self.D = nn.Parameter(step_size_bias(heads)), nn.Parameter(torch.ones(heads))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        """Two micro steps: what came before is written before the decay, the present element after it."""
        v, dt, dt_A, lam, turned = self._parts(x)
        angle, _ = scan(torch.ones_like(turned), turned, state["angle"], reset)
        angle = turn(angle)
        q, k = self._keys(x, angle)
        k0, v0 = before(k, state["k"], reset), before(v, state["v"], reset)

        def both(first: Tensor, second: Tensor) -> Tensor:
            return torch.stack([first, second], dim=2).flatten(1, 2)

        y = both(((1 - lam) * dt)[..., None] * v0, (lam * dt)[..., None] * v)
        o, h = chunked(Writes(q, both(k0, k), y, both(torch.zeros_like(dt_A), dt_A)), state["h"], reset)
        last = {"angle": angle[:, -1], "k": k[:, -1].to(h.dtype), "v": v[:, -1].to(h.dtype)}
        return self._output(o, v, x), {"h": h} | last

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        v, dt, dt_A, lam, turned = self._parts(x)
        angle = turn(state["angle"] + turned)
        q, k = self._keys(x, angle)
        k0, v0 = state["k"], ((1 - lam) * dt)[..., None] * state["v"]
        h = torch.exp(dt_A)[..., None, None] * (state["h"] + k0[..., :, None] * v0[..., None, :])
        h = h + k[..., :, None] * ((lam * dt)[..., None] * v)[..., None, :]
        return self._output(read(h, q), v, x), {"h": h, "angle": angle, "k": k, "v": v}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        _, _, dt_A, lam, _ = self._parts(x)
        return {"forget": torch.exp(dt_A), "trapezoid": lam}

    def _parts(self, x: Float[Tensor, "*batch input"]) -> tuple[Tensor, ...]:
        v = torch.unflatten(self.Wx(x), -1, (self.heads, -1))
        dt = F.softplus(self.Wdt(x) + self.dt_bias)
        A = -F.softplus(self.WA(x)).clamp(min=SMALLEST)
        turned = dt[..., None] * (math.pi * torch.tanh(self.Wtheta(x)))[..., None, :]
        return v, dt, dt * A, torch.sigmoid(self.Wlambda(x)), turned

    def _keys(self, x: Float[Tensor, "*batch input"], angle: Float[Tensor, "*batch heads pairs"]) -> list[Tensor]:
        pairs = ((self.WC, self.bC), (self.WB, self.bB))
        cos, sin = torch.cos(angle), torch.sin(angle)
        return [rotate(normed(W(x))[..., None, :] + b.view(self.heads, -1), cos, sin) for W, b in pairs]

    def _output(self, o: Tensor, v: Tensor, x: Float[Tensor, "*batch input"]) -> Tensor:
        y: Tensor = (o + self.D[:, None] * v).flatten(-2) * F.silu(self.Wz(x))
        return y
