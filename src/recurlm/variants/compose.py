"""Recurrences of recurrences: a stack of layers, a residual block, two directions. Each satisfies the contract."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.variants.base import (
    LockedDropout,
    Recurrence,
    State,
    autocast_dtype,
    mask_state,
    part_of,
    prefixed,
    rms_norm,
)


class Stack(Recurrence):
    """Recurrences, each reading the outputs of the one below, with dropout between them.

    The output is that of the last layer; with `concat_layers`, the outputs of all layers are concatenated, so that the
    decoder reads each of them directly (Graves 2013, arXiv:1308.0850).
    """

    def __init__(
        self,
        layers: Sequence[Recurrence],
        dropout: float = 0.0,
        concat_layers: bool = False,
        norm: bool = False,
    ) -> None:
        """`norm` puts an RMSNorm behind the last layer, as residual blocks need it."""
        super().__init__()
        self.layers = nn.ModuleList(layers)
        self.gates = layers[-1].gates
        self.dropout = LockedDropout(dropout)
        self.concat_layers = concat_layers
        self.output_size = sum(layer.output_size for layer in (layers if concat_layers else layers[-1:]))
        self.norm = RMSNorm(self.output_size) if norm else nn.Identity()
        self.state_spec = {
            f"layer{number}.{name}": shape
            for number, layer in enumerate(layers)
            for name, shape in layer.state_spec.items()
        }

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        next_state: State = {}
        outputs = []
        for number, layer in enumerate(self.layers):
            x, new = layer(self.dropout(x) if number else x, part_of(f"layer{number}", state), reset)
            next_state |= prefixed(f"layer{number}", new)
            outputs.append(x)
        return self._output(outputs), next_state

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        next_state: State = {}
        outputs = []
        for number, layer in enumerate(self.layers):
            x, new = layer.step(self.dropout(x) if number else x, part_of(f"layer{number}", state))  # type: ignore[operator]
            next_state |= prefixed(f"layer{number}", new)
            outputs.append(x)
        return self._output(outputs), next_state

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        gates: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers):
            before = part_of(f"layer{number}", state)
            x = self.dropout(x) if number else x
            gates |= prefixed(f"layer{number}", layer.gate_activations(x, before))  # type: ignore[operator]
            x, _ = layer.step(x, before)  # type: ignore[operator]
        return gates

    def _output(self, outputs: list[Tensor]) -> Tensor:
        several = self.concat_layers and len(outputs) > 1
        output: Tensor = self.norm(torch.cat(outputs, dim=-1) if several else outputs[-1])
        return output


class RMSNorm(nn.Module):
    """`rms_norm` with a weight of its own."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        return rms_norm(x, self.weight)


class SwiGLU(nn.Module):
    """W₂ (silu(W₁ x) ⊙ W₃ x) (Shazeer 2020, arXiv:2002.05202)."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.w1 = nn.Linear(width, hidden, bias=False)
        self.w3 = nn.Linear(width, hidden, bias=False)
        self.w2 = nn.Linear(hidden, width, bias=False)

    def forward(self, x: Float[Tensor, "*batch width"]) -> Float[Tensor, "*batch width"]:
        y: Tensor = self.w2(F.silu(self.w1(x)) * self.w3(x))
        return y


class ShortConv(Recurrence):
    """A causal depthwise convolution over the last `kernel` inputs, and a SiLU (as in H3 and Mamba, arXiv:2312.00752).

    Its state is the last kernel − 1 inputs.
    """

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__()
        self.kernel = kernel
        self.output_size = width
        self.state_spec = {"conv": (kernel - 1, width)}
        self.weight = nn.Parameter(torch.empty(width, 1, kernel).uniform_(-(kernel**-0.5), kernel**-0.5))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(
        self, x: Float[Tensor, "batch time width"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time width"], State]:
        past, time = self.kernel - 1, x.shape[1]
        inputs = torch.cat([state["conv"], x.to(state["conv"].dtype)], dim=1)
        last, counts = inputs[:, time:], None
        if reset is not None:
            # An input counts where no reset lies between it and the output.
            segment = F.pad(reset.long().cumsum(1), (past, 0))
            same = [segment[:, lag : lag + time] == segment[:, past:] for lag in range(self.kernel)]
            counts = torch.stack(same)[..., None].to(inputs.dtype)
            last = last * (segment[:, time:] == segment[:, -1:])[..., None]
        weight, dtype = self.weight[:, 0].T.contiguous(), autocast_dtype(x)
        y: Tensor = _Convolved.apply(inputs, weight, self.bias, counts, dtype)  # type: ignore[no-untyped-call]
        return y, {"conv": last}

    def step(self, x: Float[Tensor, "batch width"], state: State) -> tuple[Float[Tensor, "batch width"], State]:
        inputs = torch.cat([state["conv"], x[:, None]], dim=1)
        y = (inputs * self.weight[:, 0].T).sum(dim=1) + self.bias
        return y * torch.sigmoid(y), {"conv": inputs[:, 1:]}


class _Convolved(torch.autograd.Function):
    """silu of a causal depthwise convolution, with the backward pass written out: one pass over the inputs a tap."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor, bias: Tensor, counts: Tensor | None, dtype: torch.dtype
    ) -> Tensor:
        """`weight` is [kernel, width]; where `counts`, [kernel, batch, time, 1], is 0, a tap reads nothing."""
        time = inputs.shape[1] - len(weight) + 1
        taps = [inputs[:, lag : lag + time] for lag in range(len(weight))]
        taps = taps if counts is None else [tap * count for tap, count in zip(taps, counts, strict=True)]
        y = torch.addcmul(bias, taps[0], weight[0])
        for tap, w in zip(taps[1:], weight[1:], strict=True):
            y.addcmul_(tap, w)
        ctx.save_for_backward(inputs, weight, counts, y)
        return F.silu(y).to(dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, counts, y = ctx.saved_tensors
        dy = torch.ops.aten.silu_backward(dy.to(y.dtype), y)
        dinputs, dweight = torch.zeros_like(inputs), torch.empty_like(weight)
        for lag in range(len(weight)):
            tap = slice(lag, lag + y.shape[1])
            slope = dy if counts is None else dy * counts[lag]
            dinputs[:, tap].addcmul_(slope, weight[lag])
            torch.sum(slope * inputs[:, tap], (0, 1), out=dweight[lag])
        return dinputs, dweight, dy.sum((0, 1)), None, None


class Block(Recurrence):
    """A pre-norm residual block around a recurrence: x + W cell(conv(norm(x))), then x + mlp(norm(x)).

    The short convolution and the MLP are optional. As in Mamba and xLSTM (arXiv:2405.04517), with the residual path of
    He et al. 2016 (arXiv:1603.05027).
    """

    def __init__(self, cell: Recurrence, width: int, conv: int = 0, mlp_ratio: float = 0.0) -> None:
        """`conv` is the kernel of the short convolution, `mlp_ratio` the MLP's hidden size over the width; 0: none."""
        super().__init__()
        self.gates = cell.gates
        self.output_size = width
        self.norm = RMSNorm(width)
        self.conv = ShortConv(width, conv) if conv > 1 else None
        self.cell = cell
        self.projection = nn.Linear(cell.output_size, width, bias=False)
        hidden = round(mlp_ratio * width)
        self.mlp = nn.Sequential(RMSNorm(width), SwiGLU(width, hidden)) if hidden else None
        self.state_spec = cell.state_spec | (self.conv.state_spec if self.conv else {})

    def forward(
        self, x: Float[Tensor, "batch time width"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time width"], State]:
        y, next_state = self.norm(x), {}
        if self.conv is not None:
            y, convolved = self.conv(y, state, reset)
            next_state = convolved
        y, new = self.cell(y, state, reset)
        return self._residual(x, y), new | next_state

    def step(self, x: Float[Tensor, "batch width"], state: State) -> tuple[Float[Tensor, "batch width"], State]:
        y, next_state = self._before_cell(x, state)
        y, new = self.cell.step(y, state)
        return self._residual(x, y), new | next_state

    def gate_activations(self, x: Float[Tensor, "batch width"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        return self.cell.gate_activations(self._before_cell(x, state)[0], state)

    def _before_cell(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        y: Tensor = self.norm(x)
        return (y, {}) if self.conv is None else self.conv.step(y, state)

    def _residual(self, x: Tensor, y: Tensor) -> Tensor:
        x = x + self.projection(y)
        return x if self.mlp is None else x + self.mlp(x)


class Bidirectional(Recurrence):
    """Two recurrences that never read the element that they predict (Schuster & Paliwal 1997).

    One runs from the left, one from the right, and neither reads the other (Mousa & Schuller 2017):

        text            to     be     or     not    to     be
        left            ───►───►───►───┐
        right                          │      ┌───◄───◄───
        prediction                     └─ ?? ─┘

    y[t] concatenates the left output after x[t − 1] and the right output after x[t + 1]. The states `left.*` belong to
    the left edge of a chunk and `right.*` to its right edge: `forward` returns those with which the chunk to the right,
    or to the left, goes on. A reset at t parts x[t − 1] from x[t] for both directions.
    """

    def __init__(self, left: Recurrence, right: Recurrence) -> None:
        super().__init__()
        self.left, self.right = left, right
        self.gates = left.gates
        self.output_size = left.output_size + right.output_size
        # An output is not always a function of the state, so the last one is carried along.
        self.state_spec = {
            f"{side}.{name}": shape
            for side, part in self.directions.items()
            for name, shape in (part.state_spec | {"output": (part.output_size,)}).items()
        }

    @property
    def directions(self) -> dict[str, Recurrence]:
        """The recurrence of each side."""
        return {"left": self.left, "right": self.right}

    def states_of(self, side: str) -> list[str]:
        """The names of the states that belong to one side."""
        return [name for name in self.state_spec if name.startswith(f"{side}.")]

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        left, right = part_of("left", state), part_of("right", state)
        known_left, known_right = left.pop("output"), right.pop("output")
        # From the right, a reset before x[t] is one after x[t − 1] was to be read: one place earlier.
        mirrored = None if reset is None else F.pad(reset[:, 1:], (0, 1)).flip(1)
        after, left_end = self.left(x, left, reset)
        before, right_end = self.right(x.flip(1), right, mirrored)
        y_left = torch.cat([known_left[:, None], after[:, :-1]], dim=1)
        y_right = torch.cat([before.flip(1)[:, 1:], known_right[:, None]], dim=1)
        left_end["output"], right_end["output"] = after[:, -1], before[:, -1]
        if reset is not None:
            y_left = y_left.masked_fill(reset[..., None], 0)
            y_right = y_right.masked_fill(F.pad(reset[:, 1:], (0, 1))[..., None], 0)
            right_end = mask_state(right_end, ~reset[:, 0])
        y = torch.cat([y_left, y_right.to(y_left.dtype)], dim=-1)
        return y, prefixed("left", left_end) | prefixed("right", right_end)

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        """Both sides read x, each in its own direction; the output is what they knew before they did.

        Walk from the left and keep the left half of the outputs, walk from the right and keep the right half, and you
        have `forward`.
        """
        next_state: State = {}
        for side, part in self.directions.items():
            y, new = part.step(x, part_of(side, state))
            next_state |= prefixed(side, new | {"output": y})
        return torch.cat([state["left.output"], state["right.output"]], dim=-1), next_state

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        """Those of both sides, each in its own direction, as in `step`."""
        gates: dict[str, Tensor] = {}
        for side, part in self.directions.items():
            gates |= prefixed(side, part.gate_activations(x, part_of(side, state)))
        return gates
