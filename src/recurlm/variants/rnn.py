"""The simple recurrent network: no gates, one state, the shortest memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recurlm.variants.base import Stack, orthogonal_, product


class RNN(Stack):
    """h' = φ(W x + U h + b), with φ = tanh or relu (Elman 1990, "Finding structure in time")."""

    gates = 0
    cell_states = ("h",)

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        layers: int = 1,
        dropout: float = 0.0,
        concat_layers: bool = False,
        nonlinearity: Literal["tanh", "relu"] = "tanh",
    ) -> None:
        self.nonlinearity = nonlinearity
        super().__init__(input_size, hidden_size, layers, dropout, concat_layers)

    def make_layer(self, input_size: int, hidden_size: int) -> nn.Module:
        layer = nn.RNN(input_size, hidden_size, nonlinearity=self.nonlinearity, batch_first=True)
        orthogonal_(layer, gates=1)
        return layer

    def run_layer(
        self, layer: nn.Module, x: Float[Tensor, "batch time input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> tuple[Float[Tensor, "batch time hidden"], Sequence[Float[Tensor, "batch hidden"]]]:
        if x.is_cuda:  # cuDNN
            y, h = layer(x, state[0][None])
            return y, [h[0]]
        W, U, b, d = layer.parameters()
        y, h = _Chunk.apply(x, state[0], W, U, b + d, self.nonlinearity)  # type: ignore[no-untyped-call]
        return y, [h]

    def step_layer(
        self, layer: nn.Module, x: Float[Tensor, "batch input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> Sequence[Float[Tensor, "batch hidden"]]:
        (h,) = state
        φ = torch.tanh if self.nonlinearity == "tanh" else torch.relu
        W, U, b, d = layer.parameters()
        return [φ(product(x, W) + product(h, U) + (b + d))]


class _Chunk(torch.autograd.Function):
    """A chunk through one layer on a CPU, with the backward pass written out.

    torch's own loop builds a graph of every time step, and adds up the weights' gradients step by step. Here a time
    step is one product and one elementwise pass, each way, and the weights get their gradients in one product at the
    end. benchmarks/throughput.py says what it brings.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, W: Tensor, U: Tensor, b: Tensor, nonlinearity: str
    ) -> tuple[Tensor, Tensor]:
        φ_ = torch.tanh_ if nonlinearity == "tanh" else torch.relu_
        xs = x.transpose(0, 1).contiguous()  # [time, batch, …] from here on
        ys = torch.addmm(b, xs.flatten(0, 1), W.T).view(len(xs), *h0.shape)
        Ut, h = U.T.contiguous(), h0
        for y in ys.unbind():
            h = φ_(y.addmm_(h, Ut))
        ctx.save_for_backward(xs, h0, W, U, ys)
        ctx.nonlinearity = nonlinearity
        return ys.transpose(0, 1), h.clone()

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        xs, h0, W, U, ys = ctx.saved_tensors
        dys = dy.transpose(0, 1).contiguous()
        slopes = 1 - ys * ys if ctx.nonlinearity == "tanh" else (ys > 0).to(ys.dtype)
        da = torch.empty_like(ys)  # with respect to a = W x + U h + b
        dh = dys[-1] + dh
        for t in range(len(ys) - 1, -1, -1):
            torch.mul(dh, slopes[t], out=da[t])
            dh = torch.addmm(dys[t - 1], da[t], U) if t else da[t] @ U
        rows = da.flatten(0, 1)
        dU = (da[0].T @ h0).addmm_(da[1:].flatten(0, 1).T, ys[:-1].flatten(0, 1))
        dx = (rows @ W).view(xs.shape).transpose(0, 1)
        return dx, dh, rows.T @ xs.flatten(0, 1), dU, rows.sum(0), None
