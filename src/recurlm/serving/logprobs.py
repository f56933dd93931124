"""How likely a causal model finds each token of a text, and what it would have found likelier, by step.onnx."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recurlm.runtime import Bundle


@dataclass(frozen=True)
class Scored:
    """A token, its log-probability, and the likeliest ones at its place."""

    token: int
    log_prob: float
    top: list[tuple[int, float]]


class Steps:
    """A bundle's step.onnx, loaded when it is first asked for."""

    def __init__(self, bundle: Bundle, threads: int | None) -> None:
        self.bundle, self.threads = bundle, threads
        self._session: Any = None

    def run(self, token: int, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """The logits [vocabulary] after one more token, and the next state."""
        if self._session is None:
            self._session = self.bundle.session("step.onnx", {"token"}, self.threads)
        outputs = ["logits", *(f"next_state.{name}" for name in self.bundle.state)]
        logits, *after = self._session.run(outputs, {"token": np.array([token], np.int64)} | state)
        return logits[0], {f"state.{name}": value for name, value in zip(self.bundle.state, after, strict=True)}


class Logprobs:
    """Goes along one text."""

    def __init__(self, steps: Steps, before: Sequence[int], top: int) -> None:
        """Begin after the tokens `before`; `top`: how many of the likeliest are wanted."""
        self.steps, self.top = steps, top
        self._unread = list(before)
        self._state = {f"state.{name}": np.zeros((1, *shape), np.float32) for name, shape in steps.bundle.state.items()}

    def feed(self, tokens: Sequence[int]) -> list[Scored]:
        """Score the text's next tokens."""
        return [self._score(token) for token in tokens]

    def _score(self, token: int) -> Scored:
        for known in self._unread:
            logits, self._state = self.steps.run(known, self._state)
        self._unread = [token]
        wide = logits.astype(np.float64)
        log_probs = wide - (wide.max() + np.log(np.exp(wide - wide.max()).sum()))
        likeliest = np.argsort(-log_probs, kind="stable")[: self.top].tolist()
        return Scored(token, float(log_probs[token]), [(other, float(log_probs[other])) for other in likeliest])
