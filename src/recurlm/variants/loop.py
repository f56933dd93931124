"""Loops over time, for cells whose state passes a nonlinearity, so that no step can begin before the one before it.

`over_time` runs any cell's step, `diagonal_over_time` that of units that do not read each other, and `lstm_with_resets`
the fused LSTM. `RNNChunk` and `GRUChunk` are loops on a CPU with the backward pass written out: torch's own builds a
graph of every step, and adds up the weights' gradients step by step. benchmarks/throughput.py says what that brings.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import State, mask_state

SATURATED = 1e4  # a preactivation at which a sigmoid is 0 or 1, whatever else is added to it


def over_time(
    cell: Callable[[Tensor, State], tuple[Tensor, State]],
    a: Float[Tensor, "batch time *features"],
    state: State,
    reset: Bool[Tensor, "batch time"] | None = None,
) -> tuple[Float[Tensor, "batch time *output"], State]:
    """Apply `cell(a[:, t], state)` to all elements of a chunk in turn.

    What does not wait for the state, such as the products with the inputs, belongs into `a`: computed once for the
    whole chunk. Under autocast the state stays in its own precision.
    """
    resets = [False] * a.shape[1] if reset is None else reset.any(0).tolist()
    outputs = []
    for t, a_t in enumerate(a.to(next(iter(state.values())).dtype).unbind(1)):
        if resets[t] and reset is not None:
            state = mask_state(state, ~reset[:, t])
        y, state = cell(a_t, state)
        outputs.append(y)
    return torch.stack(outputs, dim=1), state


def diagonal_over_time(
    cell: Callable[[Tensor, State], tuple[Tensor, State]],
    a: Float[Tensor, "batch time features"],
    state: State,
    reset: Bool[Tensor, "batch time"] | None,
    parameters: Sequence[Tensor],
) -> tuple[Float[Tensor, "batch time output"], State]:
    """`over_time` for a cell with one state, whose units read their own past alone, and `parameters` beside it."""
    ((name, h),) = state.items()

    def step(a: Tensor, h: Tensor) -> tuple[Tensor, Tensor]:
        y, new = cell(a, {name: h})
        return y, new[name]

    keep = None if reset is None else (~reset).to(h)[..., None]
    y, h = _Diagonal.apply(step, a.to(h.dtype), h, keep, *parameters)  # type: ignore[no-untyped-call]
    return y, {name: h}


class _Diagonal(torch.autograd.Function):
    """The loop of such a cell, with the backward pass over all steps at once.

    Once all states are known, each step's slopes J[t] = ∂h[t] / ∂h[t − 1] are one number a unit, so that the states'
    gradients are a linear recurrence: G[t − 1] = J[t] ⊙ G[t] + what y[t] adds. The rest is `cell` on all steps.
    """

    @staticmethod
    def forward(
        ctx: Any, step: Callable[..., Any], a: Tensor, h: Tensor, keep: Tensor | None, *parameters: Tensor
    ) -> Any:
        ys, before = [], []
        for t, a_t in enumerate(a.unbind(1)):
            h = h if keep is None else h * keep[:, t]
            before.append(h)
            y, h = step(a_t, h)
            ys.append(y)
        ctx.save_for_backward(a, torch.stack(before, dim=1), keep, *parameters)
        ctx.step = step
        return torch.stack(ys, dim=1), h.clone()

    @staticmethod
    def backward(ctx: Any, dy: Tensor, dh: Tensor) -> tuple[Tensor | None, ...]:
        a, hs, keep, *parameters = ctx.saved_tensors
        size = hs.shape
        with torch.enable_grad():
            a, hs = (part.detach().flatten(0, 1).requires_grad_(True) for part in (a, hs))  # all steps as one batch
            y, new = ctx.step(a, hs)
            (J,) = torch.autograd.grad(new.sum(), hs, retain_graph=True)
            (D,) = torch.autograd.grad(y, hs, dy.flatten(0, 1), retain_graph=True)
        J, D = J.view(size), D.view(size)
        if keep is not None:
            J, D = J * keep, D * keep
        G = torch.empty_like(D)
        G[:, -1] = dh
        for t in range(G.shape[1] - 1, 0, -1):
            torch.addcmul(D[:, t], J[:, t], G[:, t], out=G[:, t - 1])
        slopes = [part.flatten(0, 1) for part in (dy, G)]
        da, *rest = torch.autograd.grad([y, new], [a, *parameters], slopes, allow_unused=True)
        return None, torch.unflatten(da, 0, size[:2]), torch.addcmul(D[:, 0], J[:, 0], G[:, 0]), None, *rest


class Resets:
    """Where a chunk's rows start from a zero state."""

    def __init__(self, reset: Bool[Tensor, "batch time"] | None, like: Tensor) -> None:
        self.keep: Tensor | None = None
        self._some: list[bool] = []
        if reset is not None:
            self.keep = (~reset.T).to(like)[..., None]  # [time, batch, 1]
            self._some = reset.any(0).tolist()

    def __call__(self, value: Float[Tensor, "batch hidden"], t: int) -> Float[Tensor, "batch hidden"]:
        """What of a value passes between steps t − 1 and t, in either direction: a state, or its gradient."""
        return value * self.keep[t] if self.keep is not None and self._some[t] else value

    def at(self, t: int) -> bool:
        """Whether some row is reset before step t."""
        return bool(self._some) and self._some[t]

    def over_time(self, values: Float[Tensor, "time batch hidden"]) -> Float[Tensor, "time batch hidden"]:
        """The states that the steps of a chunk began with, given those of the steps before."""
        return values if self.keep is None else values * self.keep


def by_chunk(
    chunk: type[torch.autograd.Function], x: Float[Tensor, "batch time input"], h: Tensor, *others: Any
) -> tuple[Tensor, Tensor]:
    """Apply RNNChunk or GRUChunk: under a CPU's autocast in its precision, elsewhere in that of the state.

    They write products into tensors that are there already, which autocast does not see.
    """
    if x.device.type == "cpu":
        return chunk.apply(x, h, *others)  # type: ignore[no-untyped-call, no-any-return]
    with torch.autocast(x.device.type, enabled=False):
        return chunk.apply(x.to(h.dtype), h, *others)  # type: ignore[no-untyped-call, no-any-return]


class RNNChunk(torch.autograd.Function):
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


class GRUChunk(torch.autograd.Function):
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


def lstm_with_resets(
    lstm: nn.LSTM, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"]
) -> tuple[Float[Tensor, "batch time output"], State]:
    """A chunk by the fused kernel, which cannot reset a state on the way: steps that clear it are put in between.

        a b | c d | e        a b ! c d ! e
        f g   h | i j        f g h ! i j =         ! clears the state, = holds the cell state

    Two more inputs, with weights that saturate the gates, make such a step: i = f = o = 0 leaves c = h = 0, and i = 0
    with f = 1 leaves c as it was. Saturated gates pass no gradient on.
    """
    W, U, b, d = lstm.parameters()
    rows, time = torch.arange(len(x), device=x.device)[:, None], x.shape[1]
    place = reset.long().cumsum(1)
    longer = time + int(place[:, -1].max())
    place = place + torch.arange(time, device=x.device)  # where x[t] goes
    clears = torch.ones(len(x), longer, dtype=torch.bool, device=x.device)
    clears[rows, place] = False
    holds = torch.arange(longer, device=x.device) > place[:, -1:]
    inputs = x.new_zeros(len(x), longer, x.shape[2] + 2)
    inputs[..., -2], inputs[..., -1] = (clears & ~holds).to(x.dtype), holds.to(x.dtype)
    inputs = inputs.index_put((rows, place), F.pad(x, (0, 2)))
    i, f, o = 0, 1, 3
    gates = W.new_zeros(4, lstm.hidden_size, 2)
    gates[[i, f, o], :, 0], gates[i, :, 1], gates[f, :, 1] = -SATURATED, -SATURATED, SATURATED
    weights = (torch.cat([W, gates.flatten(0, 1)], dim=1), U, b, d)
    hx = (state["h"][None], state["c"][None])
    y, _, c = torch.lstm(inputs, hx, weights, True, 1, 0.0, lstm.training, False, True)
    y = y[rows, place]
    return y, {"h": y[:, -1], "c": c[0]}
