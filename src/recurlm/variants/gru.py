"""The gated recurrent unit: two gates, one state, less to compute than an LSTM."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recurlm.variants.base import Stack, orthogonal_, product


class GRU(Stack):
    """h' = (1 − z) ⊙ n + z ⊙ h (Cho et al. 2014, arXiv:1406.1078).

    The reset gate acts on U h after the product, as in cuDNN and torch, so that one product serves all three.
    """

    gates = 2
    cell_states = ("h",)

    def make_layer(self, input_size: int, hidden_size: int) -> nn.Module:
        layer = nn.GRU(input_size, hidden_size, batch_first=True)
        orthogonal_(layer, gates=3, gain=0.5)
        return layer

    def run_layer(
        self, layer: nn.Module, x: Float[Tensor, "batch time input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> tuple[Float[Tensor, "batch time hidden"], Sequence[Float[Tensor, "batch hidden"]]]:
        if x.is_cuda:  # cuDNN
            y, h = layer(x, state[0][None])
            return y, [h[0]]
        y, h = _Chunk.apply(x, state[0], *layer.parameters())  # type: ignore[no-untyped-call]
        return y, [h]

    def step_layer(
        self, layer: nn.Module, x: Float[Tensor, "batch input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> Sequence[Float[Tensor, "batch hidden"]]:
        (h,) = state
        _, z, n = self._activations(layer, x, h)
        return [(1 - z) * n + z * h]

    def layer_gates(
        self, layer: nn.Module, x: Float[Tensor, "batch input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> dict[str, Float[Tensor, "batch hidden"]]:
        r, z, _ = self._activations(layer, x, state[0])
        return {"reset": r, "update": z}

    def _activations(
        self, layer: nn.Module, x: Float[Tensor, "batch input"], h: Float[Tensor, "batch hidden"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        W, U, b, d = layer.parameters()
        Wr, Wz, Wn = (product(x, W) + b).chunk(3, dim=-1)
        Ur, Uz, Un = (product(h, U) + d).chunk(3, dim=-1)
        r, z = torch.sigmoid(Wr + Ur), torch.sigmoid(Wz + Uz)
        return r, z, torch.tanh(Wn + r * Un)


class _Chunk(torch.autograd.Function):
    """A chunk through one layer on a CPU, with the backward pass written out.

    All that does not wait for the step before it is done for the whole chunk at once: the products with x, the slopes
    of the gates, and the gradients of the weights. What is left to a time step is one product and a few elementwise
    passes over the batch. benchmarks/throughput.py says what it brings.
    """

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(ctx: Any, x: Tensor, h0: Tensor, W: Tensor, U: Tensor, b: Tensor, d: Tensor) -> tuple[Tensor, Tensor]:
        xs = x.transpose(0, 1).contiguous()  # [time, batch, …] from here on
        (time, batch), hidden = xs.shape[:2], h0.shape[1]
        gates = torch.addmm(b, xs.flatten(0, 1), W.T).view(time, batch, 3 * hidden)  # W x, and later r, z and n
        Us = torch.empty_like(gates)  # U h
        ys = gates.new_empty(time, batch, hidden)
        Ut, h = U.T.contiguous(), h0
        for gate, Uh, y in zip(gates.unbind(), Us.unbind(), ys.unbind(), strict=True):
            torch.addmm(d, h, Ut, out=Uh)
            rz, n = gate[:, : 2 * hidden], gate[:, 2 * hidden :]
            rz.add_(Uh[:, : 2 * hidden]).sigmoid_()
            n.addcmul_(rz[:, :hidden], Uh[:, 2 * hidden :]).tanh_()
            h = torch.lerp(n, h, rz[:, hidden:], out=y)
        ctx.save_for_backward(xs, h0, W, U, gates, Us, ys)
        return ys.transpose(0, 1), h.clone()

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor, ...]:
        xs, h0, W, U, gates, Us, ys = ctx.saved_tensors
        hidden = ys.shape[2]
        dys = dy.transpose(0, 1).contiguous()
        hs = torch.cat([h0[None], ys[:-1]])  # the state that each step began with
        r, z, n = gates.split(hidden, dim=2)
        to_n = (1 - z) * (1 - n * n)  # from dh to what is inside n's tanh
        slopes = torch.cat([to_n * Us[..., 2 * hidden :] * r * (1 - r), (hs - n) * z * (1 - z), to_n * r], dim=2)
        da = torch.empty_like(slopes)  # with respect to U h + d
        dhs = torch.empty_like(ys)
        torch.add(dys[-1], dh, out=dhs[-1])
        for t in range(len(ys) - 1, -1, -1):
            torch.mul(slopes[t].view(-1, 3, hidden), dhs[t, :, None], out=da[t].view(-1, 3, hidden))
            kept = torch.addcmul(dys[t - 1], dhs[t], z[t], out=dhs[t - 1]) if t else dhs[0] * z[0]
            dh = kept.addmm_(da[t], U)
        rows = da.flatten(0, 1)
        dU, dd = rows.T @ hs.flatten(0, 1), rows.sum(0)
        torch.mul(dhs, to_n, out=da[..., 2 * hidden :])  # from here on with respect to W x + b
        dx = (rows @ W).view(xs.shape).transpose(0, 1)
        return dx, dh, rows.T @ xs.flatten(0, 1), dU, rows.sum(0), dd
