"""Long short-term memory: three gates and a second state that gradients can flow along."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from recurlm.variants.base import Recurrence, Resets, State, orthogonal_, product


class LSTM(Recurrence):
    """c' = f ⊙ c + i ⊙ g and h' = o ⊙ tanh(c') (Hochreiter & Schmidhuber 1997; forget gate: Gers et al. 2000)."""

    gates = 3

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.output_size = hidden_size
        self.state_spec = {"h": (hidden_size,), "c": (hidden_size,)}
        self.lstm = nn.LSTM(input_size, hidden_size, batch_first=True)
        # Gates start half open, the forget gate too. A bias of 1 there (Jozefowicz, Zaremba & Sutskever 2015) learned
        # more slowly: 4.13 against 4.05 nats a token of validation text after 0.65 million tokens.
        orthogonal_(self.lstm, gates=4, gain=0.5)

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        h, c = state["h"], state["c"]
        if reset is None:  # the fused kernel of oneDNN or cuDNN, which cannot reset a state on the way
            y, (h, c) = self.lstm(x, (h[None], c[None]))
            return y, {"h": h[0], "c": c[0]}
        W, U, b, d = self.lstm.parameters()
        y, h, c = _Chunk.apply(x, h, c, W, U, b + d, reset)  # type: ignore[no-untyped-call]
        return y, {"h": h, "c": c}

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        h, c = state["h"], state["c"]
        i, f, g, o = self._activations(x, h)
        c = f * c + i * g
        h = o * torch.tanh(c)
        return h, {"h": h, "c": c}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        i, f, _, o = self._activations(x, state["h"])
        return {"input": i, "forget": f, "output": o}

    def _activations(
        self, x: Float[Tensor, "batch input"], h: Float[Tensor, "batch hidden"]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        W, U, b, d = self.lstm.parameters()
        i, f, g, o = (product(x, W) + product(h, U) + (b + d)).chunk(4, dim=-1)
        return torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)


class _Chunk(torch.autograd.Function):
    """A chunk in which some rows start anew on the way, with the backward pass written out (see gru.py)."""

    @staticmethod
    @torch.amp.custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)  # type: ignore[untyped-decorator]
    def forward(
        ctx: Any, x: Tensor, h0: Tensor, c0: Tensor, W: Tensor, U: Tensor, b: Tensor, reset: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        xs = x.transpose(0, 1).contiguous()  # [time, batch, …] from here on
        resets = Resets(reset, xs)
        (time, batch), hidden = xs.shape[:2], h0.shape[1]
        gates = torch.addmm(b, xs.flatten(0, 1), W.T).view(time, batch, 4 * hidden)  # W x, and later i, f, g and o
        ys, cs, tanh_cs = (gates.new_empty(time, batch, hidden) for _ in range(3))
        Ut, h, c = U.T.contiguous(), h0, c0
        for t, gate in enumerate(gates.unbind()):
            gate.addmm_(resets(h, t), Ut)
            gate[:, : 2 * hidden].sigmoid_()
            gate[:, 2 * hidden : 3 * hidden].tanh_()
            gate[:, 3 * hidden :].sigmoid_()
            i, f, g, o = gate.chunk(4, dim=1)
            c = torch.mul(f, resets(c, t), out=cs[t]).addcmul_(i, g)
            h = torch.mul(o, torch.tanh(c, out=tanh_cs[t]), out=ys[t])
        ctx.save_for_backward(xs, h0, c0, W, U, gates, ys, cs, tanh_cs)
        ctx.resets = resets
        return ys.transpose(0, 1), h.clone(), c.clone()

    @staticmethod
    @torch.amp.custom_bwd(device_type="cpu")  # type: ignore[untyped-decorator]
    def backward(ctx: Any, dy: Tensor, dh: Tensor, dc: Tensor) -> tuple[Tensor | None, ...]:
        xs, h0, c0, W, U, gates, ys, cs, tanh_cs = ctx.saved_tensors
        resets: Resets = ctx.resets
        hidden = ys.shape[2]
        dys = dy.transpose(0, 1).contiguous()
        hs = resets.over_time(torch.cat([h0[None], ys[:-1]]))  # the states that each step began with
        before = resets.over_time(torch.cat([c0[None], cs[:-1]]))
        i, f, g, o = gates.chunk(4, dim=2)
        slopes = torch.cat([g * i * (1 - i), before * f * (1 - f), i * (1 - g * g)], dim=2)  # from dc
        to_o, to_c = tanh_cs * o * (1 - o), o * (1 - tanh_cs * tanh_cs)  # from dh
        passed = resets.over_time(f)  # from dc to that of the step before
        da = torch.empty_like(gates)  # with respect to W x + U h + b
        dh = dys[-1] + dh
        for t in range(len(ys) - 1, -1, -1):
            dc = torch.addcmul(dc, dh, to_c[t])
            torch.mul(slopes[t].view(-1, 3, hidden), dc[:, None], out=da[t].view(-1, 4, hidden)[:, :3])
            torch.mul(dh, to_o[t], out=da[t, :, 3 * hidden :])
            dc = dc * passed[t]
            if t and not resets.at(t):
                dh = torch.addmm(dys[t - 1], da[t], U)
            else:
                dh = resets(da[t] @ U, t)
                dh = dys[t - 1] + dh if t else dh
        rows = da.flatten(0, 1)
        dx = (rows @ W).view(xs.shape).transpose(0, 1)
        return dx, dh, dc, rows.T @ xs.flatten(0, 1), rows.T @ hs.flatten(0, 1), rows.sum(0), None
