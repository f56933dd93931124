"""The simple recurrent network: no gates, one state, the shortest memory."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, Resets, State, orthogonal_, product


class RNN(Recurrence):
    """h' = φ(W x + U h + b), with φ = tanh or relu (Elman 1990, "Finding structure in time")."""

    gates = 0

    def __init__(self, input_size: int, hidden_size: int, nonlinearity: Literal["tanh", "relu"] = "tanh") -> None:
        super().__init__()
        self.nonlinearity = nonlinearity
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.rnn = nn.RNN(input_size, hidden_size, nonlinearity=nonlinearity, batch_first=True)
        orthogonal_(self.rnn, gates=1)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        if x.is_cuda and reset is None:  # cuDNN
            y, h = self.rnn(x, state["h"][None])
            return y, {"h": h[0]}
        W, U, b, d = self.rnn.parameters()
        y, h = _Chunk.apply(x, state["h"], W, U, b + d, self.nonlinearity, reset)  # type: ignore[no-untyped-call]
        return y, {"h": h}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        φ = torch.tanh if self.nonlinearity == "tanh" else torch.relu
        W, U, b, d = self.rnn.parameters()
        h = φ(product(x, W) + product(state["h"], U) + (b + d))
        return h, {"h": h}


class _Chunk(torch.autograd.Function):
    """A chunk through one layer on a CPU, with the backward pass written out.

    torch's own loop builds a graph of every time step, and adds up the weights' gradients step by step. Here a time
    step is one product and one elementwise pass, each way, and the weights get their gradients in one product at the
    end. benchmarks/throughput.py says what it brings.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, W: Tensor, U: Tensor, b: Tensor, nonlinearity: str, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        φ_ = torch.tanh_ if nonlinearity == "tanh" else torch.relu_
        xs = x.transpose(0, 1).contiguous()  # [time, batch, …] from here on
        resets = Resets(reset, xs)
        ys = torch.addmm(b, xs.flatten(0, 1), W.T).view(len(xs), *h0.shape)
        Ut, h = U.T.contiguous(), h0
        for t, y in enumerate(ys.unbind()):
            h = φ_(y.addmm_(resets(h, t), Ut))
        ctx.save_for_backward(xs, h0, W, U, ys)
        ctx.nonlinearity, ctx.resets = nonlinearity, resets
        return ys.transpose(0, 1), h.clone()

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        xs, h0, W, U, ys = ctx.saved_tensors
        resets: Resets = ctx.resets
        dys = dy.transpose(0, 1).contiguous()
        slopes = 1 - ys * ys if ctx.nonlinearity == "tanh" else (ys > 0).to(ys.dtype)
        da = torch.empty_like(ys)  # with respect to a = W x + U h + b
        dh = dys[-1] + dh
        for t in range(len(ys) - 1, -1, -1):
            torch.mul(dh, slopes[t], out=da[t])
            if t and not resets.at(t):
                dh = torch.addmm(dys[t - 1], da[t], U)
            else:
                dh = resets(da[t] @ U, t)
                dh = dys[t - 1] + dh if t else dh
        rows = da.flatten(0, 1)
        if resets.keep is None:
            dU = (da[0].T @ h0).addmm_(da[1:].flatten(0, 1).T, ys[:-1].flatten(0, 1))
        else:
            dU = rows.T @ resets.over_time(torch.cat([h0[None], ys[:-1]])).flatten(0, 1)
        dx = (rows @ W).view(xs.shape).transpose(0, 1)
        return dx, dh, rows.T @ xs.flatten(0, 1), dU, rows.sum(0), None, None
