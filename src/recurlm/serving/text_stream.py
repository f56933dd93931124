"""The text of one choice of an answer, streamed: decoded tokens, cut at stop sequences."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from recurlm.runtime.stop import StopSearch
from recurlm.runtime.tokenizer import Vocabulary
from recurlm.serving.scheduler import Sequence

FinishReason = Literal["stop", "length"]


class TextStream:
    """Turns the tokens of one sequence into the text of its choice."""

    def __init__(self, sequence: Sequence, vocabulary: Vocabulary, prompt: str, stops: list[str]) -> None:
        """`prompt`: the text that `sequence` continues."""
        self.sequence = sequence
        self.max_tokens = sequence.tokens_left
        self.tokens: list[int] = []
        self.offsets: list[int] = []  # where each token begins, in characters after the prompt
        self.finish_reason: FinishReason | None = None if self.max_tokens else "length"
        self._decoder = vocabulary.decoder(prompt, sequence.unread[-1])
        self._stop_search = StopSearch(stops)
        self._decoded = 0  # characters, held back or not

    def feed(self, tokens: Iterable[int], last: bool) -> str:
        """The text that these tokens add; sets `finish_reason` where the text ends.

        `last`: whether the sequence ended with them. The sequence itself may be some chunks ahead.
        """
        parts = []
        for token in tokens:
            self.tokens.append(token)
            self.offsets.append(self._decoded)
            text = self._decoder.feed([token])
            self._decoded += len(text)
            parts.append(self._stop_search.feed(text))
            if self._stop_search.found:
                self.finish_reason, self.sequence.cancelled = "stop", True
                return "".join(parts)
        if len(self.tokens) == self.max_tokens:
            self.finish_reason = "length"
        elif last:
            self.finish_reason = "stop"
        if self.finish_reason:
            parts.append(self._stop_search.held)
        return "".join(parts)


def token_text(token: int, vocabulary: Vocabulary) -> str:
    """A token as text; its bytes where they are no whole characters, its name where it is a special token."""
    text = vocabulary.text([token])
    if vocabulary.kind == "bpe" and "\ufffd" in text:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in vocabulary.token_bytes([token]))
    return text or str(vocabulary.tokenizer.id_to_token(token))
