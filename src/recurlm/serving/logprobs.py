"""Log-probabilities of a text's tokens, and of the likeliest alternatives, by step.onnx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from recurlm.runtime import Bundle, GraphSession
from recurlm.runtime.session import State


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability, and those of the likeliest tokens in its place."""

    token: int
    log_prob: float
    top: list[tuple[int, float]]


class StepModel:
    """A bundle's step.onnx, loaded on first use."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.bundle, self.threads = bundle, threads

    @cached_property
    def session(self) -> GraphSession:
        return self.bundle.session("step.onnx", {"token"}, self.threads)


class Logprobs:
    """The log-probabilities of one text, in as many portions as it arrives in."""

    def __init__(self, model: StepModel, context: Sequence[int], top: int) -> None:
        """Begin after the tokens `context`; `top`: the number of alternatives."""
        self.model, self.top = model, top
        self._unread = list(context)
        self._state: State | None = None

    def feed(self, tokens: Sequence[int]) -> list[TokenLogprob]:
        """Score the text's next tokens."""
        return [self._score(token) for token in tokens]

    def _score(self, token: int) -> TokenLogprob:
        for unread in self._unread:
            feeds = {"token": np.array([unread], np.int64)}
            results, self._state = self.model.session.run(["logits"], feeds, self._state)
        self._unread = [token]
        logits = results["logits"][0].astype(np.float64)
        log_probs = logits - (logits.max() + np.log(np.exp(logits - logits.max()).sum()))
        likeliest = np.argsort(-log_probs, kind="stable")[: self.top].tolist()
        return TokenLogprob(token, float(log_probs[token]), [(other, float(log_probs[other])) for other in likeliest])
