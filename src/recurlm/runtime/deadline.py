"""A bound on the time of one call of onnxruntime: a graph's loop may say that it takes 2^62 steps."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

POLL_SECONDS = 0.25


class Watchdog:
    """Asks calls that last too long to end. Its thread starts with the first call, and sleeps where none runs."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: dict[int, tuple[float, Any]] = {}  # id → the time at which it has to end, and its RunOptions
        self._some = threading.Event()
        self._thread = threading.Thread()

    @contextmanager
    def limit(self, options: Any, seconds: float) -> Iterator[None]:
        """Set `options.terminate` if the block lasts longer; onnxruntime looks at it between two operators."""
        with self._lock:
            self._calls[id(options)] = (time.monotonic() + seconds, options)
            self._some.set()
            if not self._thread.is_alive():  # nor is it after a fork
                self._thread = threading.Thread(target=self._watch, name="recurlm-deadline", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._lock:
                del self._calls[id(options)]
                if not self._calls:
                    self._some.clear()

    def _watch(self) -> None:
        while True:
            self._some.wait()
            time.sleep(POLL_SECONDS)
            now = time.monotonic()
            with self._lock:
                for end, options in self._calls.values():
                    if now > end:
                        options.terminate = True


WATCHDOG = Watchdog()
