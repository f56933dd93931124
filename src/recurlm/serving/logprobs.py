"""Log-probabilities of a text's tokens, and of the likeliest alternatives, by step.onnx."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recurlm.runtime import Bundle, GraphSession
from recurlm.runtime.session import State

SLICE_TOKENS = 64  # read at once, so that a long text does not hold up the others


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability, and those of the likeliest tokens in its place."""

    token: int
    log_prob: float
    top: list[tuple[int, float]]


class StepModel:
    """A bundle's step.onnx."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.session: GraphSession = bundle.session("step.onnx", {"token"}, threads)


class Logprobs:
    """The log-probabilities of one text, which arrives in portions and is read in slices."""

    def __init__(self, model: StepModel, context: Iterable[int], top: int) -> None:
        """Begin after the tokens `context`, of which there is at least one; `top`: the number of alternatives."""
        self.model, self.top = model, top
        self._unread = deque((token, False) for token in context)
        self._state: State | None = None
        self._log_probs: Any = None  # [vocabulary], of the token after those that were read

    def add(self, tokens: Iterable[int]) -> None:
        """Append tokens to the text, to be scored."""
        self._unread.extend((token, True) for token in tokens)

    @property
    def waiting(self) -> bool:
        """Whether tokens are left to be read."""
        return bool(self._unread)

    def read_slice(self) -> list[TokenLogprob]:
        """Read the next tokens of the text; returns the log-probabilities of those that were to be scored."""
        scored = []
        for _ in range(min(SLICE_TOKENS, len(self._unread))):
            token, to_score = self._unread.popleft()
            if to_score:
                scored.append(self._score(token))
            results, self._state = self.model.session.run(["logits"], {"token": np.array([token])}, self._state)
            logits = results["logits"][0].astype(np.float64)
            self._log_probs = logits - (logits.max() + np.log(np.exp(logits - logits.max()).sum()))
        return scored

    def fork(self) -> Logprobs:
        """Another text that begins with the same tokens; all of them have been read."""
        assert not self._unread
        other = Logprobs(self.model, (), self.top)
        other._state, other._log_probs = self._state, self._log_probs
        return other

    def _score(self, token: int) -> TokenLogprob:
        likeliest = np.argsort(-self._log_probs, kind="stable")[: self.top].tolist()
        top = [(other, float(self._log_probs[other])) for other in likeliest]
        return TokenLogprob(token, float(self._log_probs[token]), top)
