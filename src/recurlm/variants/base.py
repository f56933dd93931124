"""The contract of a recurrence, and what several cells share.

A recurrence maps features to features and carries a state. It knows nothing of vocabularies, batches, losses, files,
ONNX or MLflow. `forward` is the fast path of training and evaluation; `step` is its reference, in plain tensor
operations, and the graph that ONNX gets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

State = dict[str, Tensor]  # name → tensor[batch, *shape]


class Recurrence(nn.Module, ABC):
    """Features in, features out, and a state between."""

    gates: int = 0
    """Gates of one cell: 0 for an RNN, 2 for a GRU, 3 for an LSTM."""

    output_size: int
    state_spec: dict[str, tuple[int, ...]]
    """Name → shape of one sequence's state, of any rank."""

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time input"], state: State, reset: Bool[Tensor, "batch time"] | None = None
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        """Read a chunk of any length. Where `reset[b, t]`, the state of row b is zero before x[b, t] is read."""

    @abstractmethod
    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        """Read one element, in plain tensor operations and without a branch on data."""

    def initial_state(self, batch_size: int) -> State:
        """Zeros: the state before anything was read."""
        parameter = next(self.parameters())
        return {name: parameter.new_zeros(batch_size, *shape) for name, shape in self.state_spec.items()}

    def recurrent_matrices(self) -> list[nn.Parameter]:
        """The matrices that multiply a state: named U…, as in the papers, or weight_hh…, as in torch."""
        named = [(name.rpartition(".")[2], parameter) for name, parameter in self.named_parameters()]
        return [matrix for name, matrix in named if matrix.ndim == 2 and name.startswith(("U", "weight_hh"))]

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        """Each gate's activation, 0 (closed) to 1 (open), when `step` reads x: "layer0.forget" → [batch, hidden].

        Optional: {} for a recurrence without gates. Only diagnostics ask.
        """
        return {}


def mask_state(state: State, keep: Bool[Tensor, "batch"]) -> State:
    """Zero the state of the rows that are not kept, whatever its rank."""
    return {name: value * keep.view(-1, *[1] * (value.ndim - 1)).to(value) for name, value in state.items()}


def prefixed(prefix: str, state: State) -> State:
    """A part's state under its names in the whole: `h` → `layer0.h`."""
    return {f"{prefix}.{name}": value for name, value in state.items()}


def part_of(prefix: str, state: State) -> State:
    """The inverse of `prefixed`: one part's state, under its own names."""
    return {name.removeprefix(f"{prefix}."): value for name, value in state.items() if name.startswith(f"{prefix}.")}


class LockedDropout(nn.Module):
    """Dropout with one mask for all time steps of a row (Gal & Ghahramani 2016, arXiv:1512.05287)."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p
        self.lanes: tuple[slice, int] | None = None
        """Where a process has but some rows of a batch: which, and how many the batch has."""

    def forward(self, x: Float[Tensor, "batch *time features"]) -> Float[Tensor, "batch *time features"]:
        if not self.training or self.p == 0:
            return x
        rows, batch_size = self.lanes or (slice(None), len(x))
        keep = torch.rand(batch_size, x.shape[-1], device=x.device)[rows] >= self.p
        mask = keep.to(x.dtype).div_(1 - self.p)
        return x * mask.view(len(x), *[1] * (x.ndim - 2), -1)


def orthogonal_(cell: nn.RNNBase, gates: int, gain: float = 1.0) -> None:
    """Initialize a fused layer: recurrent matrices orthogonal gate by gate, input matrices scaled by the fan-in.

    An input of variance 1 gives W x a standard deviation of `gain`. An orthogonal recurrent matrix keeps the norm of a
    state, so that gradients neither vanish nor explode at first (Saxe, McClelland & Ganguli 2014, arXiv:1312.6120).
    Biases start at zero.
    """
    W, U, b, d = cell.parameters()
    for recurrent in U.chunk(gates):
        nn.init.orthogonal_(recurrent)
    bound = gain * math.sqrt(3 / cell.input_size)
    nn.init.uniform_(W, -bound, bound)
    nn.init.zeros_(b)
    nn.init.zeros_(d)


def product(x: Float[Tensor, "batch input"], w: Float[Tensor, "output input"]) -> Float[Tensor, "batch output"]:
    """W x for a batch of rows x."""
    return torch.matmul(x, w.T)


class Resets:
    """Where a chunk's rows start from a zero state, as the loops over time in rnn.py, gru.py and lstm.py need it."""

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
