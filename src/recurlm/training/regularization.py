"""AWD-LSTM's regularizers beside dropout: DropConnect on recurrent matrices, AR and TAR, averaged weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn

from recurlm.config import TrainRegularization


@contextmanager
def weight_drop(matrices: Sequence[nn.Parameter], p: float) -> Iterator[None]:
    """Forward and backward with a fraction `p` of the weights at zero; gradients are those of the whole matrices.

    The same weights are hidden at every step of the rows (Wan et al. 2013; recurrent matrices: Merity, Keskar & Socher
    2018, arXiv:1708.02182). The others are enlarged by 1 / (1 − p), as in dropout.
    """
    if p == 0:
        yield
        return
    masks = [(torch.rand_like(matrix) >= p).to(matrix.dtype).div_(1 - p) for matrix in matrices]
    whole = [matrix.detach().clone() for matrix in matrices]
    # Through .data, in place: a fused kernel finds its weights where they were, and autograd sees no change of them.
    for matrix, mask in zip(matrices, masks, strict=True):
        matrix.data.mul_(mask)
    try:
        yield
    finally:
        for matrix, mask, value in zip(matrices, masks, whole, strict=True):
            matrix.data.copy_(value)
            if matrix.grad is not None:
                matrix.grad.mul_(mask)


def activation_penalty(
    y: Float[Tensor, "batch time width"], dropped: Float[Tensor, "batch time width"], ar: float, tar: float
) -> Float[Tensor, ""] | float:
    """`ar` × mean y² behind dropout, and `tar` × mean (y[t+1] − y[t])² before it.

    Activation and temporal activation regularization (Merity, McCann & Socher 2017, arXiv:1708.01009).
    """
    penalty: Tensor | float = 0.0
    if ar:
        penalty = penalty + ar * dropped.float().pow(2).mean()
    if tar and y.shape[1] > 1:
        penalty = penalty + tar * y.float().diff(dim=1).pow(2).mean()
    return penalty


class WeightAverage:
    """An average of the weights along a run, evaluated and kept in place of the weights themselves.

    - `ema`: a mean whose weights fall by `decay` a step, and as long as it is young faster: min(decay, t / (t + 9)).
    - `asgd`: the plain mean of all weights since the run stopped getting better, which is when none of the last
      `patience` validation losses was below the best one before them (Merity, Keskar & Socher 2018, arXiv:1708.02182,
      section 4: NT-AvSGD). Until then: the weights themselves.
    - `none`: the weights themselves, always.
    """

    def __init__(self, model: nn.Module, config: TrainRegularization) -> None:
        self.kind, self.decay, self.patience = config.average, config.ema_decay, config.asgd_patience
        self.count = 0  # how many weights are in the mean
        self._weights = dict(model.named_parameters())
        self.mean: dict[str, Tensor] = {}
        if self.kind == "ema":
            self.begin()

    def begin(self) -> None:
        self.mean = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Add the weights of this step."""
        if not self.mean:
            return
        self.count += 1
        new = 1 / self.count
        if self.kind == "ema" and self.count > 1:
            new = 1 - min(self.decay, self.count / (self.count + 9))
        means = [self.mean[name] for name in self._weights]  # a checkpoint has an order of its own
        torch._foreach_lerp_(means, list(self._weights.values()), new)

    def on_evaluation(self, losses: list[float]) -> None:
        """Begin to average (`asgd`) once the validation losses so far no longer fall."""
        before, last = losses[: -self.patience], losses[-self.patience :]
        if self.kind == "asgd" and not self.mean and before and min(last) >= min(before):
            self.begin()

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The model has the mean as its weights, and afterwards its own again."""
        if not self.count:
            yield
            return
        own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._set(self.mean)
        try:
            yield
        finally:
            self._set(own)

    @torch.no_grad()
    def _set(self, values: dict[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])
