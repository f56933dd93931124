"""Log-probabilities of a text's tokens, and of the likeliest alternatives, by step.onnx."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from recurlm.runtime import GraphSession
from recurlm.runtime.session import State
from recurlm.runtime.tokenizer import Vocabulary


@dataclass(frozen=True)
class TokenLogprob:
    """A token's log-probability, and those of the likeliest tokens in its place."""

    token: int
    log_prob: float
    top: list[tuple[int, float]]


class Logprobs:
    """Reads one text token by token. A copy goes on with another text that begins with the same tokens."""

    def __init__(self, session: GraphSession, top: int) -> None:
        """`session`: of step.onnx; `top`: the number of alternatives."""
        self.session, self.top = session, top
        self._state: State | None = None
        self._log_probs: Any = None  # [vocabulary], of the token after those that were read

    def read(self, tokens: Iterable[int], score: bool = True) -> list[TokenLogprob]:
        """Read the text's next tokens, of which `<bos>` comes first and is not scored; their log-probabilities."""
        scored = []
        for token in tokens:
            if score and self._log_probs is not None:
                scored.append(self._score(token))
            results, self._state = self.session.run(["logits"], {"token": np.array([token])}, self._state)
            logits = results["logits"][0].astype(np.float64)
            self._log_probs = logits - (logits.max() + np.log(np.exp(logits - logits.max()).sum()))
        return scored

    def _score(self, token: int) -> TokenLogprob:
        likeliest = np.argsort(-self._log_probs, kind="stable")[: self.top].tolist()
        top = [(other, float(self._log_probs[other])) for other in likeliest]
        return TokenLogprob(token, float(self._log_probs[token]), top)


def token_text(token: int, vocabulary: Vocabulary) -> str:
    """A token as text; its bytes where they are no whole characters, its name where it is a special token."""
    text = vocabulary.text([token])
    if vocabulary.kind == "bpe" and "\ufffd" in text:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in vocabulary.token_bytes([token]))
    return text or str(vocabulary.tokenizer.id_to_token(token))
