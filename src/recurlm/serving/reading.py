"""How much a request to fill masks reads."""

from __future__ import annotations

import copy
import threading
from typing import Any, cast

from recurlm.runtime import Filler, GraphSession
from recurlm.serving.exceptions import ApiError


class Reading:
    """What one request may read: so many tokens, and nothing more once its client has gone.

    `fill_work` is what a text takes where the sampled tokens can stand in a word. Where they cannot, the filler samples
    many more, and how many is known only then.
    """

    def __init__(self, most: int) -> None:
        self._most, self._read = most, 0
        self._stopped = threading.Event()

    def stop(self) -> None:
        """Let no further call begin."""
        self._stopped.set()

    def of(self, filler: Filler) -> Filler:
        """The filler, with calls that count."""
        _ = filler._allowed  # found once for all requests: a copy would find it for itself
        counted = copy.copy(filler)
        counted.session = cast(GraphSession, _Counted(filler.session, self))
        return counted

    def count(self, tokens: int) -> None:
        """Count the tokens of a call before it is made.

        Raises:
            ApiError: it is not to be made.
        """
        if self._stopped.is_set():
            raise ApiError(499, "the client has gone")
        self._read += tokens
        if self._read > self._most:
            raise ApiError(
                400, f"text: no fitting words in {self._most} tokens that were read: fill it in parts", "text"
            )


class _Counted:
    """A session whose calls count."""

    def __init__(self, session: GraphSession, reading: Reading) -> None:
        self._session, self._reading = session, reading

    def run(self, outputs: Any, feeds: dict[str, Any]) -> Any:
        self._reading.count(feeds["tokens"].size)
        return self._session.run(outputs, feeds)
