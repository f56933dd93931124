"""The contract of a recurrence, and the stack of layers that most recurrences are.

A recurrence maps features to features and carries a state. It knows nothing of vocabularies, batches, losses, files,
ONNX or MLflow. `forward` is the fast path that training and evaluation call; `step` is the same mathematics in plain
tensor operations: the reference that `forward` is tested against, and the graph that ONNX gets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

State = dict[str, Tensor]  # name → tensor[batch, *shape]


class Recurrence(nn.Module, ABC):
    """Features in, features out, and a state between."""

    gates: ClassVar[int] = 0
    """How many gates one cell has: 0 for an RNN, 2 for a GRU, 3 for an LSTM."""

    causal: ClassVar[bool] = True
    """True: y[t] has read x[≤ t] and predicts what comes next. False: y[t] has read all but x[t], which it predicts."""

    output_size: int
    state_spec: dict[str, tuple[int, ...]]
    """Name → shape of one sequence's state."""

    def recurrent_matrices(self) -> list[nn.Parameter]:
        """The matrices that multiply a state: named U…, as in the papers, or weight_hh…, as in torch."""
        named = [(name.rpartition(".")[2], parameter) for name, parameter in self.named_parameters()]
        return [matrix for name, matrix in named if matrix.ndim == 2 and name.startswith(("U", "weight_hh"))]

    def initial_state(self, batch_size: int) -> State:
        """The state before anything was read: zeros."""
        parameter = next(self.parameters())
        return {name: parameter.new_zeros(batch_size, *shape) for name, shape in self.state_spec.items()}

    @abstractmethod
    def forward(
        self, x: Float[Tensor, "batch time input"], state: State
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        """Read a chunk of any length at once."""

    @abstractmethod
    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        """Read one element, in plain tensor operations."""

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        """How far each gate is open, 0 to 1, when `step` reads x: "layer0.forget" → [batch, hidden].

        Optional: {} for a recurrence without gates, or one that does not tell. Nothing but diagnostics asks.
        """
        return {}


class LockedDropout(nn.Module):
    """Dropout that hides the same features at every step of a row (Gal & Ghahramani 2016, arXiv:1512.05287)."""

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = share

    def forward(self, x: Float[Tensor, "batch *time features"]) -> Float[Tensor, "batch *time features"]:
        if not self.training or self.share == 0:
            return x
        kept = torch.rand(len(x), x.shape[-1], device=x.device) >= self.share
        mask = kept.to(x.dtype).div_(1 - self.share)
        return x * mask.view(len(x), *[1] * (x.ndim - 2), -1)


class Stack(Recurrence):
    """Layers of one kind, each reading the one below, with dropout between them.

    The output is that of the last layer; with `concat_layers`, the outputs of all layers are concatenated, so that the
    decoder reads each of them directly (Graves 2013, arXiv:1308.0850).

    A variant names its cell's states and says how one layer of it is made, run over a chunk, and stepped.
    """

    cell_states: ClassVar[tuple[str, ...]]

    def __init__(
        self, input_size: int, hidden_size: int, layers: int = 1, dropout: float = 0.0, concat_layers: bool = False
    ) -> None:
        super().__init__()
        # The states whose values are the output, once an element was read.
        self.seen = [
            f"layer{number}.{self.cell_states[0]}" for number in range(0 if concat_layers else layers - 1, layers)
        ]
        self.output_size = hidden_size * len(self.seen)
        self.dropout = LockedDropout(dropout)
        sizes = [input_size] + [hidden_size] * (layers - 1)
        self.layers = nn.ModuleList(self.make_layer(size, hidden_size) for size in sizes)
        self.state_spec = {
            f"layer{number}.{name}": (hidden_size,) for number in range(layers) for name in self.cell_states
        }

    @abstractmethod
    def make_layer(self, input_size: int, hidden_size: int) -> nn.Module:
        """One layer, holding its weights."""

    @abstractmethod
    def run_layer(
        self, layer: nn.Module, x: Float[Tensor, "batch time input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> tuple[Float[Tensor, "batch time hidden"], Sequence[Float[Tensor, "batch hidden"]]]:
        """One layer over a chunk, by the fused kernel."""

    @abstractmethod
    def step_layer(
        self, layer: nn.Module, x: Float[Tensor, "batch input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> Sequence[Float[Tensor, "batch hidden"]]:
        """One layer over one element; the first of the new states is its output."""

    def layer_gates(
        self, layer: nn.Module, x: Float[Tensor, "batch input"], state: Sequence[Float[Tensor, "batch hidden"]]
    ) -> dict[str, Float[Tensor, "batch hidden"]]:
        """The gates of one layer by name, as `step_layer` uses them; see `gate_activations`."""
        return {}

    def gate_activations(self, x: Float[Tensor, "batch input"], state: State) -> dict[str, Float[Tensor, "batch _"]]:
        found: dict[str, Tensor] = {}
        for number, layer in enumerate(self.layers):
            if number:
                x = self.dropout(x)
            before = [state[f"layer{number}.{name}"] for name in self.cell_states]
            gates = self.layer_gates(layer, x, before)
            found |= {f"layer{number}.{name}": value for name, value in gates.items()}
            x = self.step_layer(layer, x, before)[0]
        return found

    def forward(
        self, x: Float[Tensor, "batch time input"], state: State
    ) -> tuple[Float[Tensor, "batch time output"], State]:
        next_state: State = {}
        outputs = []
        for number, layer in enumerate(self.layers):
            if number:
                x = self.dropout(x)
            x, new = self.run_layer(layer, x, [state[f"layer{number}.{name}"] for name in self.cell_states])
            next_state |= {f"layer{number}.{name}": value for name, value in zip(self.cell_states, new, strict=True)}
            outputs.append(x)
        return joined(outputs[-len(self.seen) :]), next_state

    def step(self, x: Float[Tensor, "batch input"], state: State) -> tuple[Float[Tensor, "batch output"], State]:
        next_state: State = {}
        for number, layer in enumerate(self.layers):
            if number:
                x = self.dropout(x)
            new = self.step_layer(layer, x, [state[f"layer{number}.{name}"] for name in self.cell_states])
            next_state |= {f"layer{number}.{name}": value for name, value in zip(self.cell_states, new, strict=True)}
            x = new[0]
        return joined([next_state[name] for name in self.seen]), next_state


def joined(outputs: Sequence[Float[Tensor, "*batch features"]]) -> Float[Tensor, "*batch output"]:
    """Side by side."""
    return outputs[0] if len(outputs) == 1 else torch.cat(list(outputs), dim=-1)


def orthogonal_(cell: nn.RNNBase, gates: int, gain: float = 1.0) -> None:
    """Start a fused layer well: each gate's recurrent matrix orthogonal, its input matrix scaled by the fan-in.

    An input of variance 1 gives the cell's W x a standard deviation of `gain`.

    An orthogonal recurrent matrix keeps the norm of a state, so that gradients neither vanish nor explode at the start
    (Saxe, McClelland & Ganguli 2014, arXiv:1312.6120). Biases start at zero.
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
