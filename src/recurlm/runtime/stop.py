"""Stop sequences: a text that arrives piece by piece ends before the first of them."""

from __future__ import annotations

from collections.abc import Sequence

from recurlm.errors import InputError

MAX_STOPS = 4  # OpenAI's
MAX_STOP_LENGTH = 1024  # characters of each


def validate_stops(stops: str | Sequence[str] | None) -> list[str]:
    """The stop sequences as a list: of none, of one string, or of several.

    Raises:
        InputError: there are too many, or one is empty, too long, or not UTF-8 text.
    """
    if not isinstance(stops, str | Sequence | None):
        raise InputError(f"stop: {stops!r} is not a string or a list of strings")
    stops = [stops] if isinstance(stops, str) else list(stops or ())
    if len(stops) > MAX_STOPS:
        raise InputError(f"stop: {len(stops)} sequences, at most {MAX_STOPS}")
    for stop in stops:
        if not isinstance(stop, str):
            raise InputError(f"stop: {stop!r} is not a string")
        if not 1 <= len(stop) <= MAX_STOP_LENGTH:
            raise InputError(f"stop: a sequence of {len(stop)} characters: 1 to {MAX_STOP_LENGTH}")
        try:
            stop.encode()
        except UnicodeEncodeError:
            raise InputError("stop: a sequence is not UTF-8 text") from None
    return stops


class StopSearch:
    """Finds the first of several stop sequences in a streamed text, in time linear in the text.

    The first is the one that is complete first, so that the result does not depend on the pieces in which the text
    arrives; of two that are complete at once, the longer.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self.found = False  # whether the text has ended before a stop sequence
        # The longest end of the text that begins a stop sequence: not safe to emit, unless the whole text ends here.
        self.held = ""
        self._patterns = [_Pattern(stop) for stop in stops]

    def feed(self, text: str) -> str:
        """The text that has become safe to emit; nothing once a stop sequence is found."""
        if self.found or not self._patterns:
            return "" if self.found else text
        pending = self.held + text
        for end in range(len(self.held), len(pending)):
            complete = [len(pattern.text) for pattern in self._patterns if pattern.advance(pending[end])]
            if complete:
                self.found, self.held = True, ""
                return pending[: end + 1 - max(complete)]
        safe = len(pending) - max(pattern.matched for pattern in self._patterns)
        self.held = pending[safe:]
        return pending[:safe]


class _Pattern:
    """One stop sequence, and how much of it the text's end matches (Knuth, Morris and Pratt 1977)."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.matched = 0
        # shorter[n]: the longest proper prefix of text[:n] that is also its suffix
        self._shorter = [0, 0]
        for end in range(1, len(text)):
            size = self._shorter[end]
            while size and text[size] != text[end]:
                size = self._shorter[size]
            self._shorter.append(size + (text[size] == text[end]))

    def advance(self, character: str) -> bool:
        """Read the text's next character; returns whether the whole sequence is matched."""
        while self.matched and self.text[self.matched] != character:
            self.matched = self._shorter[self.matched]
        self.matched += self.text[self.matched] == character
        return self.matched == len(self.text)
