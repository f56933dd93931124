"""The simple recurrent network: no gates, one state, the shortest memory."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, State, orthogonal_, product
from recurlm.variants.loop import RNNChunk, by_chunk

IDENTITY_STD = 0.001  # of W, where U is the identity: states of a text of hundreds of elements are sums of all of them


class RNN(Recurrence):
    """h' = φ(W x + U h + b), with φ = tanh or relu (Elman 1990, "Finding structure in time").

    U starts as an orthogonal matrix, or as the identity, and W is small then: with relu, a fresh network adds up what
    it reads (Le, Jaitly & Hinton 2015, arXiv:1504.00941).
    """

    gates = 0

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
        start: Literal["orthogonal", "identity"] = "orthogonal",
    ) -> None:
        super().__init__()
        self.nonlinearity = nonlinearity
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.rnn = nn.RNN(input_size, hidden_size, nonlinearity=nonlinearity, batch_first=True)
        orthogonal_(self.rnn, gates=1)
        if start == "identity":
            W, U, _, _ = self.rnn.parameters()
            nn.init.eye_(U)
            nn.init.normal_(W, std=IDENTITY_STD)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        if x.is_cuda and reset is None:  # cuDNN
            y, h = self.rnn(x, state["h"][None])
            return y, {"h": h[0]}
        W, U, b, d = self.rnn.parameters()
        y, h = by_chunk(RNNChunk, x, state["h"], W, U, b + d, self.nonlinearity, reset)
        return y, {"h": h}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        φ = torch.tanh if self.nonlinearity == "tanh" else torch.relu
        W, U, b, d = self.rnn.parameters()
        h = φ(product(x, W) + product(state["h"], U) + (b + d))
        return h, {"h": h}
