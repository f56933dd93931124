"""sLSTM: an LSTM with exponential gates, a normalizer, and heads that mix their own units alone."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import BlockDiagonal, Recurrence, State
from recurlm.variants.linear import split
from recurlm.variants.loop import over_time


class SLSTM(Recurrence):
    """c' = f c + i z, n' = f n + i, h' = o c' / n', i and f exponentials (Beck et al. 2024, arXiv:2405.04517).

    Both gates are scaled by exp(−m'), m' = max(log f + m, log i), which cancels in c' / n'. m starts at −∞: where n is
    zero nothing was read yet, and m' = log i. Then n' is at least 1 ever after.
    """

    gates = 3
    over_state = ("R",)

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1) -> None:
        super().__init__()
        self.heads, size = heads, split(hidden_size, heads)
        self.output_size = hidden_size
        self.state_spec = dict.fromkeys(("h", "c", "n", "m"), (hidden_size,))
        self.W = nn.Linear(input_size, 4 * hidden_size)
        self.R = BlockDiagonal(heads, size, 4 * size)
        for block in self.R.blocks:
            nn.init.zeros_(block)
        nn.init.zeros_(self.W.bias)
        # As published for the first block of a stack: a cell does not know which it is in.
        with torch.no_grad():  # forget gates between 0.993 and 0.001
            self.W.bias.view(heads, 4, size)[:, 1] = 5 - 12 * torch.linspace(0, 1, size) ** 0.3

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        return over_time(self._cell, self.W(x), state, reset)

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        return self._cell(self.W(x), state)

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        _, i, f, o, _ = self._gated(self.W(x), state)
        return {"input": i.flatten(1), "forget": f.flatten(1), "output": o.flatten(1)}

    def _cell(self, Wx: Float[Tensor, "batch gates"], state: State) -> tuple[Tensor, State]:
        c, n = (torch.unflatten(state[name], -1, (self.heads, -1)) for name in "cn")
        z, i, f, o, m = self._gated(Wx, state)
        c, n = f * c + i * torch.tanh(z), f * n + i
        h = o * c / n
        return h.flatten(1), {name: part.flatten(1) for name, part in zip("hcnm", (h, c, n, m), strict=True)}

    def _gated(self, Wx: Float[Tensor, "batch gates"], state: State) -> tuple[Tensor, ...]:
        """z, the gates i and f over exp(m'), o, and m'."""
        h, n, m = (torch.unflatten(state[name], -1, (self.heads, -1)) for name in "hnm")
        i, f, z, o = (torch.unflatten(Wx, -1, (self.heads, -1)) + self.R(h)).chunk(4, dim=-1)
        log_f = -nn.functional.softplus(-f) + m
        log_f = torch.where(n == 0, i, log_f)
        m = torch.maximum(log_f, i)
        return z, torch.exp(i - m), torch.exp(log_f - m), torch.sigmoid(o), m
