"""Dynamic evaluation: the weights are updated on each segment after it was scored (Krause et al. 2018).

arXiv:1709.07432, "RMS with an RMS global prior". No token is scored by weights that were updated on it:

    θ ← θ − η g / (√MS + ε) + λ (θ_trained − θ) ⊙ R        R = √MS / mean(√MS), capped at 1/λ

g is the gradient of the segment's mean loss, and MS the mean of g² over segments of the train split; mean(√MS) is over
all parameters. η is the learning rate, λ the decay towards the trained weights. Each document begins with the trained
weights and a zero state.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from recurlm import config
from recurlm.diagnostics.subset import Subset
from recurlm.evaluation.perplexity import exact, nll_of
from recurlm.model import LanguageModel
from recurlm.variants.base import State

# The paper's ε is absolute. Here it is relative to mean(√MS), so that it fits a loss of any scale. With much less, the
# embeddings of rare tokens, whose MS is near zero, take steps that diverge at any learning rate.
EPSILON = 1.0


class DynamicEvaluator:
    """Scores text while it updates the model's weights; restores them after each document."""

    def __init__(self, model: LanguageModel, segment_tokens: int) -> None:
        self.model = model
        self.segment_tokens = segment_tokens
        self.weights = list(model.parameters())  # tied ones once
        self.trained = [weight.detach().clone() for weight in self.weights]
        self.mean_squares: list[Tensor] = []

    def collect_statistics(self, ids: Integer[np.ndarray, "tokens"], tokens: int) -> None:
        """Compute MS over segments that are spread evenly over a text."""
        count = max(1, min(tokens, len(ids) - 1) // self.segment_tokens)
        squares = [torch.zeros_like(weight) for weight in self.weights]
        for begin in np.linspace(0, max(0, len(ids) - 1 - self.segment_tokens), count).astype(int):
            segment = ids[begin : begin + self.segment_tokens + 1]
            _, _, gradient = self._read(_tensor(self.model, segment), self.model.initial_state(1))
            torch._foreach_addcmul_(squares, gradient, gradient, value=1 / count)
        self.mean_squares = squares

    def nll(self, subset: Subset, learning_rate: float, decay: float) -> Float[np.ndarray, "text"]:
        """−log p of each token of text by the updated weights; the trained ones are restored afterwards.

        Raises:
            ValueError: `collect_statistics` was not called before.
        """
        if not self.mean_squares:
            raise ValueError("call collect_statistics first")
        roots = [square.sqrt() for square in self.mean_squares]
        mean = float(sum(root.sum() for root in roots)) / sum(root.numel() for root in roots)
        scale = [learning_rate / (root + EPSILON * mean) for root in roots]
        back = [(decay * root / mean).clamp(max=1) for root in roots]
        documents = [
            self._document(_tensor(self.model, subset.ids[start:stop]), scale, back)
            for start, stop in pairwise(subset.starts.tolist())
        ]
        return np.concatenate(documents) if documents else np.empty(0, np.float32)

    def _document(self, ids: Int[Tensor, "tokens"], scale: list[Tensor], back: list[Tensor]) -> np.ndarray:
        state, segments = self.model.initial_state(1), []
        try:
            for begin in range(0, len(ids) - 1, self.segment_tokens):
                nats, state, gradient = self._read(ids[begin : begin + self.segment_tokens + 1], state)
                segments.append(nats)
                with torch.no_grad():
                    for weight, start, g, η, λ in zip(self.weights, self.trained, gradient, scale, back, strict=True):
                        weight.add_(λ * (start - weight) - η * g)
        finally:
            with torch.no_grad():
                for weight, start in zip(self.weights, self.trained, strict=True):
                    weight.copy_(start)
        return torch.cat(segments).cpu().numpy() if segments else np.empty(0, np.float32)

    def _read(self, ids: Int[Tensor, "window"], state: State) -> tuple[Float[Tensor, "predicted"], State, list[Tensor]]:
        """−log p of all tokens but the first, the next state, and the gradient of the mean."""
        features, state = self.model.features(ids[None, :-1], state)
        nats = nll_of(self.model, features[0], ids[1:])
        gradient = torch.autograd.grad(nats.mean(), self.weights)
        return nats.detach(), {name: value.detach() for name, value in state.items()}, list(gradient)


@contextmanager
def dynamic_evaluator(model: LanguageModel, segment_tokens: int) -> Iterator[DynamicEvaluator]:
    """A dynamic evaluator in fp32 without dropout; the model is restored when the block ends."""
    # cuDNN has no backward pass in evaluation mode; torch's own kernels have one.
    cudnn: Any = torch.backends.cudnn
    enabled, required = cudnn.enabled, [weight.requires_grad for weight in model.parameters()]
    with exact(model), torch.enable_grad():
        model.requires_grad_(True)
        cudnn.enabled = False
        try:
            yield DynamicEvaluator(model, segment_tokens)
        finally:
            cudnn.enabled = enabled
            for weight, requires_grad in zip(model.parameters(), required, strict=True):
                weight.requires_grad_(requires_grad)


def tune(
    evaluator: DynamicEvaluator, validation: Subset, grid: config.Dynamic
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The learning rate and decay with the least loss on validation text, and all trials with their losses.

    The learning rate is searched first, with the first decay; then the decay, with that learning rate.
    """
    trials: list[dict[str, Any]] = []

    def attempt(learning_rate: float, decay: float) -> None:
        loss = float(evaluator.nll(validation, learning_rate, decay).mean(dtype=np.float64))
        # A trial that diverged has no loss: JSON has no infinity.
        finite = loss if np.isfinite(loss) else None
        trials.append({"learning_rate": learning_rate, "decay": decay, "nats_per_token": finite})

    for learning_rate in grid.learning_rates:
        attempt(learning_rate, grid.decays[0])
    best = min(trials, key=_loss)
    for decay in grid.decays[1:]:
        attempt(best["learning_rate"], decay)
    best = min(trials, key=_loss)
    return {key: best[key] for key in ("learning_rate", "decay")}, trials


def _loss(trial: dict[str, Any]) -> float:
    return float("inf") if trial["nats_per_token"] is None else float(trial["nats_per_token"])


def _tensor(model: LanguageModel, ids: Integer[np.ndarray, "tokens"]) -> Int[Tensor, "tokens"]:
    return torch.from_numpy(ids.astype(np.int64)).to(model.embedding.weight.device)
