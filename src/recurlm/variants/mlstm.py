"""mLSTM: an LSTM whose cell is a matrix, with exponential input gates and a normalizer beside it."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import Recurrence, State
from recurlm.variants.linear import HeadNorm, Writes, chunked, linear, read, split

CAP = 15.0  # of the gates, as in xLSTM 7B (arXiv:2503.13427)


class MLSTM(Recurrence):
    """C' = f C + i k vᵀ, n' = f n + i k and h = C'ᵀ q / max(|n'ᵀ q|, 1) (Beck et al. 2024, arXiv:2405.04517).

    i = exp(cap(Wi x)) and f = σ(cap(Wf x)), with cap(a) = 15 tanh(a / 15). With gates so bounded nothing overflows, and
    the paper's stabilizer m, which cancels in h, is left out.
    """

    gates = 2

    def __init__(self, input_size: int, hidden_size: int, heads: int = 1, key_size: int | None = None) -> None:
        super().__init__()
        self.heads, value_size = heads, split(hidden_size, heads)
        self.key_size = key_size or value_size
        self.output_size = hidden_size
        self.state_spec = {"C": (heads, self.key_size, value_size), "n": (heads, self.key_size)}
        self.Wq, self.Wk = (linear(input_size, heads * self.key_size) for _ in range(2))
        self.Wv, self.Wo = (linear(input_size, hidden_size) for _ in range(2))
        self.Wi, self.Wf = (nn.Linear(input_size, heads) for _ in range(2))
        self.norm = HeadNorm(hidden_size)
        for gate in (self.Wi, self.Wf):
            nn.init.zeros_(gate.weight)
        nn.init.normal_(self.Wi.bias, std=0.1)
        with torch.no_grad():
            self.Wf.bias.copy_(torch.linspace(3, 6, heads))

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        """The normalizer is one more column of the state, to which each element writes 1."""
        q, k, v, i, log_f = self._parts(x)
        y = i[..., None] * torch.cat([v, torch.ones_like(v[..., :1])], dim=-1)
        joined = torch.cat([state["C"], state["n"][..., None]], dim=-1)
        o, S = chunked(Writes(q, k, y, log_f), joined, reset)
        return self._output(o[..., :-1], o[..., -1:], x), {"C": S[..., :-1], "n": S[..., -1]}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        q, k, v, i, log_f = self._parts(x)
        f = torch.exp(log_f)
        C = f[..., None, None] * state["C"] + i[..., None, None] * k[..., :, None] * v[..., None, :]
        n = f[..., None] * state["n"] + i[..., None] * k
        return self._output(read(C, q), (n * q).sum(dim=-1, keepdim=True), x), {"C": C, "n": n}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return {"forget": torch.exp(self._parts(x)[-1]), "output": torch.sigmoid(self.Wo(x))}

    def _parts(self, x: Float[Tensor, "*batch input"]) -> tuple[Tensor, ...]:
        q, k, v = (torch.unflatten(W(x), -1, (self.heads, -1)) for W in (self.Wq, self.Wk, self.Wv))
        i, f = (CAP * torch.tanh(W(x) / CAP) for W in (self.Wi, self.Wf))
        return q, k * self.key_size**-0.5, v, torch.exp(i), -F.softplus(-f)

    def _output(self, Cq: Tensor, nq: Tensor, x: Float[Tensor, "*batch input"]) -> Tensor:
        h: Tensor = self.norm(Cq / nq.abs().clamp(min=1))
        return torch.sigmoid(self.Wo(x)) * h
