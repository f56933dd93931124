"""How busy the machine is while it trains: a measurement beside the result, by MLflow's names."""

from __future__ import annotations

import time

import psutil

EVERY = 10.0  # seconds


class Load:
    """Samples of the processors' load since the sample before, and of this process's memory."""

    def __init__(self) -> None:
        self.samples: list[dict[str, float]] = []
        self._started = self._last = time.monotonic()
        psutil.cpu_percent()  # what comes after is counted from here

    def hear(self) -> None:
        """Take a sample, if it is time."""
        now = time.monotonic()
        if now - self._last < EVERY:
            return
        self._last = now
        self.samples.append(
            {
                "seconds": now - self._started,
                "cpu_utilization_percentage": psutil.cpu_percent(),
                "process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6,
            }
        )
