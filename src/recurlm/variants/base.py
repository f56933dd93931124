"""The contract of a recurrence, and what several cells share.

A recurrence maps features to features and carries a state. It knows nothing of vocabularies, batches, losses, files,
ONNX or MLflow. `forward` is the fast path of training and evaluation; `step` is its reference, in plain tensor
operations, and the graph that ONNX gets.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

State = dict[str, Tensor]  # name → tensor[batch, *shape]
EPSILON = 1e-6  # of norms


class Recurrence(nn.Module, ABC):
    """Features in, features out, and a state between."""

    gates: int = 0
    """Gates of one cell: 0 for an RNN, 2 for a GRU, 3 for an LSTM."""

    over_state: tuple[str, ...] = ()
    """Parts that multiply a state and whose matrices have other names than U… and weight_hh…."""

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
        """The matrices that multiply a state: named U… as in the papers, weight_hh… as in torch, or in `over_state`."""
        named = [(name.rpartition(".")[2], parameter) for name, parameter in self.named_parameters()]
        matrices = [parameter for name, parameter in named if name.startswith(("U", "weight_hh"))]
        for part in self.modules():
            if isinstance(part, Recurrence):
                matrices += [matrix for name in part.over_state for matrix in part.get_submodule(name).parameters()]
        return [matrix for matrix in matrices if matrix.ndim == 2]

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


class BlockDiagonal(nn.Module):
    """A product whose matrix has a block a head. Graphs get a product a head, training one of all heads."""

    def __init__(self, heads: int, size: int, output_size: int) -> None:
        """`size` and `output_size` are those of one head."""
        super().__init__()
        self.blocks = nn.ParameterList(torch.randn(output_size, size) * size**-0.5 for _ in range(heads))

    def forward(self, x: Float[Tensor, "*batch heads size"]) -> Float[Tensor, "*batch heads output"]:
        if torch.is_grad_enabled() and self.blocks[0].requires_grad:
            return torch.einsum("...hi,hoi->...ho", x, torch.stack(list(self.blocks)))
        return torch.stack([torch.matmul(part, W.T) for part, W in zip(x.unbind(-2), self.blocks, strict=True)], dim=-2)


def autocast_dtype(x: Tensor) -> torch.dtype:
    """What a product of x gives: the precision of autocast where that is on, else x's own."""
    device = x.device.type
    dtype: torch.dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
    return dtype


def rms_norm(x: Float[Tensor, "*batch width"], weight: Float[Tensor, "*part width"]) -> Float[Tensor, "*batch width"]:
    """x over its root mean square, times a weight a feature (Zhang & Sennrich 2019, arXiv:1910.07467).

    With gradients it is one function in the precision of autocast, with few passes over x each way; else plain tensor
    operations, which export.
    """
    if torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad):
        return Scaled.apply(x, weight, x.shape[-1], autocast_dtype(x))  # type: ignore[no-untyped-call, no-any-return]
    return x / torch.sqrt((x * x).mean(dim=-1, keepdim=True) + EPSILON) * weight


class Scaled(torch.autograd.Function):
    """w ⊙ x / √(Σ x² / count + ε), in fp32 or more, with the backward pass written out."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor | None, count: int, dtype: torch.dtype) -> Tensor:
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_().div_(count).add_(EPSILON).rsqrt_()
        normed: Tensor = x * scale
        ctx.save_for_backward(normed, scale, weight)
        ctx.count = count
        return (normed if weight is None else normed * weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        normed, scale, weight = ctx.saved_tensors
        dy = dy.to(normed.dtype)
        along, dweight = dy * normed, None
        if weight is None:
            dot = along.sum(-1, keepdim=True)
            dx = torch.addcmul(dy, normed, dot.div_(-ctx.count)).mul_(scale)
        else:
            dot = (along * weight).sum(-1, keepdim=True)
            dweight = along.flatten(0, -1 - weight.ndim).sum(0)
            dx = torch.mul(dy, weight).addcmul_(normed, dot.div_(-ctx.count)).mul_(scale)
        return dx, dweight, None, None
