"""The timestamps of a model's training from data/timings, for the run's start, end and metrics."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recurlm.report.results import Result


@dataclass(frozen=True)
class TrainingTimes:
    """Start and end of training in ms since 1970, and the samples of system metrics."""

    start: int
    end: int
    seconds: dict[int, float] = field(default_factory=dict)  # step → seconds since the start
    samples: tuple[dict[str, Any], ...] = ()  # of system metrics, as in data/timings

    def of_step(self, step: int) -> int:
        """The timestamp of a step; the end, where its time is unknown."""
        return self.after(self.seconds[step]) if step in self.seconds else self.end

    def after(self, seconds: float) -> int:
        """The timestamp so many seconds after the start."""
        return self.start + round(seconds * 1000)

    @property
    def system_metrics(self) -> Iterator[tuple[str, float, float]]:
        """(name, seconds since the start, value) of each system metric, by MLflow's names."""
        for sample in self.samples:
            for name, value in sample.items():
                if name != "seconds":
                    yield f"system/{name}", sample["seconds"], float(value)


def training_times(root: Path, result: Result) -> TrainingTimes:
    """The timestamps of a model's training; the current time, where it was trained on another machine.

    The timings are written when training ends, so the file's modification time is the end.
    """
    timings = result.training_timings
    if timings is None:
        now = int(time.time() * 1000)
        return TrainingTimes(now, now)
    end = int((root / "data/timings" / f"train-{result.name}.json").stat().st_mtime * 1000)
    points = {int(point["step"]): float(point["seconds"]) for point in timings.get("points", ())}
    start = end - round(float(timings["seconds"]) * 1000)
    return TrainingTimes(start, end, points, tuple(timings.get("system", ())))
