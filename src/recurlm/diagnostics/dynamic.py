"""Dynamic evaluation: the model goes on learning from the text that it has just been scored on (Krause et al. 2018).

arXiv:1709.07432, "RMS with an RMS global prior". A segment is scored, and only then learned from, so that no token is
ever scored by weights that have seen it:

    θ ← θ − η g / (√MS + ε) + λ (θ_trained − θ) ⊙ R        R = √MS / mean(√MS), capped at 1/λ

g is the gradient of the segment's mean loss, MS the mean of g² over segments of the train split, and the mean that
of all parameters. η is a learning rate, and λ pulls back to the trained weights. Each document begins with these, as it
begins with a zero state.
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
from recurlm.diagnostics.parts import Part
from recurlm.evaluation.perplexity import exact, nll_of
from recurlm.model import LanguageModel
from recurlm.variants.base import State

# The paper's ε is an absolute number. Here it is a share of the mean of √MS, so that it fits a loss of any scale; with
# much less, rows of rare tokens, whose gradients the statistics hardly met, take steps that no learning rate survives.
EPSILON = 1.0


class Learner:
    """A model whose weights may follow a text, and come back."""

    def __init__(self, model: LanguageModel, segment_tokens: int) -> None:
        self.model = model
        self.segment_tokens = segment_tokens
        self.weights = list(model.parameters())  # tied ones once
        self.trained = [weight.detach().clone() for weight in self.weights]
        self.squares: list[Tensor] = []

    def learn_statistics(self, ids: Integer[np.ndarray, "tokens"], tokens: int) -> None:
        """MS, over segments spread evenly over a text."""
        count = max(1, min(tokens, len(ids) - 1) // self.segment_tokens)
        squares = [torch.zeros_like(weight) for weight in self.weights]
        for begin in np.linspace(0, max(0, len(ids) - 1 - self.segment_tokens), count).astype(int):
            segment = ids[begin : begin + self.segment_tokens + 1]
            _, _, gradient = self._read(_tensor(self.model, segment), self.model.initial_state(1))
            torch._foreach_addcmul_(squares, gradient, gradient, value=1 / count)
        self.squares = squares

    def nats(self, part: Part, learning_rate: float, decay: float) -> Float[np.ndarray, "text"]:
        """−log p of each token of text, adapting all the way; the weights are the trained ones again afterwards.

        Raises:
            ValueError: `learn_statistics` was not called before.
        """
        if not self.squares:
            raise ValueError("learn_statistics comes first")
        roots = [square.sqrt() for square in self.squares]
        mean = float(sum(root.sum() for root in roots)) / sum(root.numel() for root in roots)
        scale = [learning_rate / (root + EPSILON * mean) for root in roots]
        back = [(decay * root / mean).clamp(max=1) for root in roots]
        found = [
            self._document(_tensor(self.model, part.ids[start:stop]), scale, back)
            for start, stop in pairwise(part.starts.tolist())
        ]
        return np.concatenate(found) if found else np.empty(0, np.float32)

    def _document(self, ids: Int[Tensor, "tokens"], scale: list[Tensor], back: list[Tensor]) -> np.ndarray:
        state, found = self.model.initial_state(1), []
        try:
            for at in range(0, len(ids) - 1, self.segment_tokens):
                nats, state, gradient = self._read(ids[at : at + self.segment_tokens + 1], state)
                found.append(nats)
                with torch.no_grad():
                    for weight, start, g, η, λ in zip(self.weights, self.trained, gradient, scale, back, strict=True):
                        weight.add_(λ * (start - weight) - η * g)
        finally:
            with torch.no_grad():
                for weight, start in zip(self.weights, self.trained, strict=True):
                    weight.copy_(start)
        return torch.cat(found).cpu().numpy() if found else np.empty(0, np.float32)

    def _read(self, ids: Int[Tensor, "window"], state: State) -> tuple[Float[Tensor, "predicted"], State, list[Tensor]]:
        """−log p of all tokens but the first, the state after them, and the gradient of their mean."""
        features, state = self.model.features(ids[None, :-1], state)
        nats = nll_of(self.model, features[0], ids[1:])
        gradient = torch.autograd.grad(nats.mean(), self.weights)
        return nats.detach(), {name: value.detach() for name, value in state.items()}, list(gradient)


@contextmanager
def learner(model: LanguageModel, segment_tokens: int) -> Iterator[Learner]:
    """A learner in fp32 without dropout; the model is as it was when the block ends."""
    wanted = [weight.requires_grad for weight in model.parameters()]
    with exact(model), torch.enable_grad():
        model.requires_grad_(True)
        try:
            yield Learner(model, segment_tokens)
        finally:
            for weight, want in zip(model.parameters(), wanted, strict=True):
                weight.requires_grad_(want)


def tune(adaptive: Learner, validation: Part, grid: config.Dynamic) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The rates with the least loss on validation text, and the loss with each that was tried.

    The learning rate first, with the first decay; then the decay, with that learning rate.
    """
    trials: list[dict[str, Any]] = []

    def attempt(learning_rate: float, decay: float) -> None:
        loss = float(adaptive.nats(validation, learning_rate, decay).mean(dtype=np.float64))
        # A run that left for infinity is a trial as well, and JSON has no infinity.
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
