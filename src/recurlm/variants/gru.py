"""The gated recurrent unit: two gates, one state, less to compute than an LSTM."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, Resets, State, orthogonal_, product

INPUT_GAIN = 0.5  # of fresh input matrices: gates start half open


class GRU(Recurrence):
    """h' = (1 − z) ⊙ n + z ⊙ h (Cho et al. 2014, arXiv:1406.1078).

    The reset gate acts on U h after the product, as in cuDNN and torch, so that one product serves all three.
    """

    gates = 2

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,)}
        self.gru = nn.GRU(input_size, hidden_size, batch_first=True)
        orthogonal_(self.gru, gates=3, gain=INPUT_GAIN)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        if x.is_cuda and reset is None:  # cuDNN
            y, h = self.gru(x, state["h"][None])
            return y, {"h": h[0]}
        y, h = _Chunk.apply(x, state["h"], *self.gru.parameters(), reset)  # type: ignore[no-untyped-call]
        return y, {"h": h}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        _, z, n = self._activations(x, state["h"])
        h = (1 - z) * n + z * state["h"]
        return h, {"h": h}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        r, z, _ = self._activations(x, state["h"])
        return {"reset": r, "update": z}

    def _activations(
        self, x: Float[Tensor, "batch input"], h: Float[Tensor, "batch hidden"]
    ) -> tuple[Tensor, Tensor, Tensor]:
        W, U, b, d = self.gru.parameters()
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
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, W: Tensor, U: Tensor, b: Tensor, d: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        xs = x.transpose(0, 1).contiguous()  # [time, batch, …] from here on
        resets = Resets(reset, xs)
        (time, batch), hidden = xs.shape[:2], h0.shape[1]
        gates = torch.addmm(b, xs.flatten(0, 1), W.T).view(time, batch, 3 * hidden)  # W x, and later r, z and n
        Us = torch.empty_like(gates)  # U h
        ys = gates.new_empty(time, batch, hidden)
        Ut, h = U.T.contiguous(), h0
        for t, (gate, Uh, y) in enumerate(zip(gates.unbind(), Us.unbind(), ys.unbind(), strict=True)):
            h = resets(h, t)
            torch.addmm(d, h, Ut, out=Uh)
            rz, n = gate[:, : 2 * hidden], gate[:, 2 * hidden :]
            rz.add_(Uh[:, : 2 * hidden]).sigmoid_()
            n.addcmul_(rz[:, :hidden], Uh[:, 2 * hidden :]).tanh_()
            h = torch.lerp(n, h, rz[:, hidden:], out=y)
        ctx.save_for_backward(xs, h0, W, U, gates, Us, ys)
        ctx.resets = resets
        return ys.transpose(0, 1), h.clone()

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        xs, h0, W, U, gates, Us, ys = ctx.saved_tensors
        resets: Resets = ctx.resets
        hidden = ys.shape[2]
        dys = dy.transpose(0, 1).contiguous()
        hs = resets.over_time(torch.cat([h0[None], ys[:-1]]))  # the state that each step began with
        r, z, n = gates.split(hidden, dim=2)
        to_n = (1 - z) * (1 - n * n)  # from dh to what is inside n's tanh
        slopes = torch.cat([to_n * Us[..., 2 * hidden :] * r * (1 - r), (hs - n) * z * (1 - z), to_n * r], dim=2)
        da = torch.empty_like(slopes)  # with respect to U h + d
        dhs = torch.empty_like(ys)
        torch.add(dys[-1], dh, out=dhs[-1])
        for t in range(len(ys) - 1, -1, -1):
            torch.mul(slopes[t].view(-1, 3, hidden), dhs[t, :, None], out=da[t].view(-1, 3, hidden))
            if resets.at(t) or not t:
                dh = resets((dhs[t] * z[t]).addmm_(da[t], U), t)
                dh = torch.add(dys[t - 1], dh, out=dhs[t - 1]) if t else dh
            else:
                torch.addcmul(dys[t - 1], dhs[t], z[t], out=dhs[t - 1]).addmm_(da[t], U)
        rows = da.flatten(0, 1)
        dU, dd = rows.T @ hs.flatten(0, 1), rows.sum(0)
        torch.mul(dhs, to_n, out=da[..., 2 * hidden :])  # from here on with respect to W x + b
        dx = (rows @ W).view(xs.shape).transpose(0, 1)
        return dx, dh, rows.T @ xs.flatten(0, 1), dU, rows.sum(0), dd, None
