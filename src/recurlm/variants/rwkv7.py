"""RWKV-7's time mixing: a delta rule that erases at one key, writes at another, and decays in every dimension."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import HeadNorm, Writes, before, chunked, linear, read, split, unit, update

LOG_DECAY = -0.606531  # −exp(−1/2): a dimension keeps at least 0.545 of itself
RANK = 16


class RWKV7(Recurrence):
    """S' = diag(w) S − (a ⊙ κ) (Sᵀ κ)ᵀ + k vᵀ and o = S'ᵀ r, with ‖κ‖ = 1 (Peng et al. 2025, arXiv:2503.14456).

    All of them come from lerps of an element and the one before it, which is a state too. Left out are the residual of
    v, which every layer takes from the first one's, and which a cell cannot see, and the channel mixing, in whose place
    the block's MLP stands.
    """

    gates = 2

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1) -> None:
        super().__init__()
        self.heads, size = heads, split(hidden_size, heads)
        self.output_size = hidden_size
        self.state_spec = {"S": (heads, size, size), "x": (input_size,)}
        self.mu = nn.ParameterDict({name: nn.Parameter(torch.rand(input_size)) for name in "rwkvag"})
        self.Wr, self.Wk, self.Wv = (linear(input_size, hidden_size) for _ in range(3))
        self.Ww1, self.Ww2 = linear(input_size, RANK), linear(RANK, hidden_size)
        self.Wa, self.Wg1, self.Wg2 = (
            linear(input_size, RANK, hidden_size),
            linear(input_size, 2 * RANK),
            linear(2 * RANK, hidden_size),
        )
        self.w0 = nn.Parameter(torch.linspace(-6, 1, hidden_size))
        self.a0, self.rho = (nn.Parameter(torch.zeros(hidden_size)) for _ in range(2))
        self.kappa, self.alpha = (nn.Parameter(torch.ones(hidden_size)) for _ in range(2))
        self.norm = HeadNorm(hidden_size)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        r, log_w, k, v, a, kappa, gate = self._mixed(before(x, state["x"], reset), x)
        zero = torch.zeros_like(k)

        def both(first: Tensor, second: Tensor) -> Tensor:
            return torch.stack([first, second], dim=2).flatten(1, 2)

        # Two micro steps: decay and erase, then write. κ reads the state as it was before the decay.
        writes = Writes(r, both(a * kappa, k), both(zero, v), both(log_w, zero), both(kappa * torch.exp(-log_w), zero))
        o, S = chunked(writes, state["S"], reset)
        return self._output(o, r, k, v, gate), {"S": S, "x": x[:, -1].to(S.dtype)}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        r, log_w, k, v, a, kappa, gate = self._mixed(state["x"], x)
        erased = read(state["S"], kappa)
        S = update(state["S"], k, v, log_w) - (a * kappa)[..., :, None] * erased[..., None, :]
        return self._output(read(S, r), r, k, v, gate), {"S": S, "x": x}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        _, log_w, _, _, a, _, _ = self._mixed(state["x"], x)
        return {"forget": torch.exp(log_w).flatten(1), "write": a.flatten(1)}

    def _mixed(self, last: Float[Tensor, "*batch input"], x: Float[Tensor, "*batch input"]) -> list[Tensor]:
        xr, xw, xk, xv, xa, xg = (x + (last - x) * self.mu[name] for name in "rwkvag")
        log_w = LOG_DECAY * torch.sigmoid(self.w0 + self.Ww2(torch.tanh(self.Ww1(xw))))
        a = torch.sigmoid(self.a0 + self.Wa(xa))
        k = self.Wk(xk)
        kappa, k = k * self.kappa, k * (1 + (a - 1) * self.alpha)
        gate = self.Wg2(torch.sigmoid(self.Wg1(xg)))
        r, log_w, k, v, a, kappa = (
            torch.unflatten(part, -1, (self.heads, -1)) for part in (self.Wr(xr), log_w, k, self.Wv(xv), a, kappa)
        )
        return [r, log_w, k, v, a, unit(kappa), gate]

    def _output(self, o: Tensor, r: Tensor, k: Tensor, v: Tensor, gate: Tensor) -> Tensor:
        """What was read, and v itself as far as r asks for k: ρ is the bonus of the present element."""
        bonus = (r * k * torch.unflatten(self.rho, -1, (self.heads, -1))).sum(dim=-1, keepdim=True) * v
        y: Tensor = (self.norm(o) + bonus.flatten(-2)) * gate
        return y
