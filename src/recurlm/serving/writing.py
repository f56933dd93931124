"""One text of an answer: tokens become text, which ends where the model, a stop sequence or its length ends it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from recurlm.runtime.decode import bytes_of
from recurlm.runtime.vocabulary import Vocabulary
from recurlm.serving.batch import Row

Finish = Literal["stop", "length"]


class StopSearch:
    """Finds the first of some sequences in a text that comes in pieces; what may be one's beginning is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self.stops = stops
        self.held = ""

    def feed(self, text: str) -> tuple[str, bool]:
        """What may be given out now, and whether a stop sequence follows on it."""
        text = self.held + text
        # The one that is complete first, so that it doesn't matter in what pieces the text comes.
        found = [(at + len(stop), at) for stop in self.stops if (at := text.find(stop)) >= 0]
        if found:
            self.held = ""
            return text[: min(found)[1]], True
        held = max(
            (size for stop in self.stops for size in range(1, len(stop)) if text.endswith(stop[:size])), default=0
        )
        self.held = text[len(text) - held :]
        return text[: len(text) - held], False


class Writer:
    """Writes one row's text."""

    def __init__(self, row: Row, vocabulary: Vocabulary, before: str, stops: Sequence[str]) -> None:
        """`before`: the prompt's text, which `row` goes on from."""
        self.row = row
        self.longest = row.left
        self.tokens: list[int] = []  # those of the text
        self.offsets: list[int] = []  # where each begins, in characters of the new text
        self.finish: Finish | None = None if row.left else "length"
        self._decoder = vocabulary.decoder(before, row.unread[-1])
        self._stops = StopSearch(stops)
        self._length = 0  # of all text decoded, held back or not

    def write(self, tokens: Sequence[int], last: bool) -> str:
        """The text that may be given out after these tokens; `finish` says whether it ends there.

        `last`: whether the row ended with them. The row itself may be further, by chunks that are on their way.
        """
        parts = []
        for token in tokens:
            self.tokens.append(token)
            self.offsets.append(self._length)
            text = self._decoder.feed([token])
            self._length += len(text)
            given, stopped = self._stops.feed(text)
            parts.append(given)
            if stopped:
                self.finish, self.row.cancelled = "stop", True
                return "".join(parts)
        if len(self.tokens) == self.longest:
            self.finish = "length"
        elif last:
            self.finish = "stop"
        if self.finish:
            parts.append(self._stops.held)
        return "".join(parts)


def name_of(token: int, vocabulary: Vocabulary) -> str:
    """A token as a text; its bytes where these are no whole characters, its own name where it stands for no text."""
    text = vocabulary.text([token])
    if vocabulary.kind == "bpe" and "\ufffd" in text:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in bytes_of(vocabulary.tokenizer, [token]))
    return text or str(vocabulary.tokenizer.id_to_token(token))
