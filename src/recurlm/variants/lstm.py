"""Long short-term memory: three gates and a second state that gradients can flow along."""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import Recurrence, State, orthogonal_, product
from recurlm.variants.loop import lstm_with_resets, over_time

INPUT_GAIN = 0.5  # of fresh input matrices: gates start half open


class LSTM(Recurrence):
    """c' = f ⊙ c + i ⊙ g and h' = o ⊙ tanh(c') (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000).

    With `cifg` i = 1 − f; with `peepholes` i and f also read p ⊙ c, and o reads p ⊙ c' (both: Greff et al. 2017,
    arXiv:1503.04069); with `projection` h' = P (o ⊙ tanh(c')), of so many numbers (Sak et al. 2014, arXiv:1402.1128).
    """

    gates = 3

    def __init__(
        self, input_size: int, hidden_size: int, cifg: bool = False, peepholes: bool = False, projection: int = 0
    ) -> None:
        super().__init__()
        self.output_size = projection or hidden_size
        self.state_spec = {"h": (self.output_size,), "c": (hidden_size,)}
        self.cifg, self.peepholes, self.fused = cifg, peepholes, not (cifg or peepholes or projection)
        if self.fused:
            self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
            # Gates start half open, the forget gate too. A bias of 1 there (Jozefowicz, Zaremba & Sutskever 2015)
            # learned more slowly: 4.13 against 4.05 nats a token of validation text after 0.65 million tokens.
            orthogonal_(self.lstm, gates=4, gain=INPUT_GAIN)
            return
        self.gates = 2 if cifg else 3
        bound = INPUT_GAIN * math.sqrt(3 / input_size)
        self.W = nn.Parameter(torch.empty((self.gates + 1) * hidden_size, input_size).uniform_(-bound, bound))
        blocks = (torch.empty(hidden_size, self.output_size) for _ in range(self.gates + 1))
        self.U = nn.Parameter(torch.cat([nn.init.orthogonal_(block) for block in blocks]))
        self.b = nn.Parameter(torch.zeros(len(self.W)))
        self.p = nn.ParameterList(torch.zeros(hidden_size) for _ in range(self.gates if peepholes else 0))
        self.P = nn.Linear(hidden_size, projection, bias=False) if projection else nn.Identity()

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        if not self.fused:
            return over_time(self._cell, F.linear(x, self.W), state, reset)
        if reset is not None:
            return lstm_with_resets(self.lstm, x, state, reset)
        y, (h, c) = self.lstm(x, (state["h"][None], state["c"][None]))  # the fused kernel of oneDNN or cuDNN
        return y, {"h": h[0], "c": c[0]}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        return self._cell(self._driven(x), state)

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        i, f, o, _ = self._gated(self._driven(x), state)
        return ({} if self.cifg else {"input": i}) | {"forget": f, "output": o}

    def _driven(self, x: Float[Tensor, "batch input"]) -> Tensor:
        W = next(self.lstm.parameters()) if self.fused else self.W
        return product(x, W)

    def _cell(self, Wx: Float[Tensor, "batch gates"], state: State) -> tuple[Tensor, State]:
        _, _, o, c = self._gated(Wx, state)
        h = o * torch.tanh(c)
        h = h if self.fused else self.P(h)
        return h, {"h": h, "c": c}

    def _gated(self, Wx: Float[Tensor, "batch gates"], state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """i, f, o and c'."""
        _, U, *biases = self.lstm.parameters() if self.fused else (self.W, self.U, self.b)
        b: Tensor = biases[0] + biases[1] if self.fused else biases[0]
        c = state["c"]
        *a, g, o = (Wx + product(state["h"], U) + b).chunk(self.gates + 1, dim=-1)  # a: of i and f, or of f alone
        a = [part + p * c for part, p in zip(a, self.p, strict=False)] if self.peepholes else a
        *first, f = (torch.sigmoid(part) for part in a)
        i, g = 1 - f if self.cifg else first[0], torch.tanh(g)
        c = f * c + i * g
        o = torch.sigmoid(o + self.p[-1] * c if self.peepholes else o)
        return i, f, o, c
