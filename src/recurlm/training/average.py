"""The average of the weights along a run: less noise than in the last of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn


class Average:
    """What is validated and kept, in place of the weights that the optimizer moves.

    - `ema`: a mean whose weights fall by `decay` a step, and as long as it is young faster: min(decay, t / (t + 9)).
    - `asgd`: the plain mean of all weights since the run stopped getting better, which is when none of the last
      `patience` validation losses was below the best one before them (Merity, Keskar & Socher 2018, arXiv:1708.02182,
      section 4: NT-AvSGD). Until then: the weights themselves.
    - `none`: the weights themselves, always.
    """

    def __init__(self, model: nn.Module, kind: Literal["none", "ema", "asgd"], decay: float, patience: int) -> None:
        self.kind, self.decay, self.patience = kind, decay, patience
        self.count = 0  # how many weights are in the mean
        self._weights = dict(model.named_parameters())
        self.mean: dict[str, Tensor] = {}
        if kind == "ema":
            self.begin()

    def begin(self) -> None:
        self.mean = {name: torch.zeros_like(weight) for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights of this step."""
        if not self.mean:
            return
        self.count += 1
        new = 1 / self.count
        if self.kind == "ema" and self.count > 1:
            new = 1 - min(self.decay, self.count / (self.count + 9))
        means = [self.mean[name] for name in self._weights]  # a checkpoint has an order of its own
        torch._foreach_lerp_(means, list(self._weights.values()), new)

    def heard(self, losses: list[float]) -> None:
        """Hear of all validation losses so far, the last one new."""
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
