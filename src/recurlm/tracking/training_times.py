"""When a model was trained, as far as this machine measured it: so that a run's times are those of the training."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recurlm.report.results import Result


@dataclass(frozen=True)
class TrainingTimes:
    """Times in ms since 1970."""

    start: int
    end: int
    seconds: dict[int, float] = field(default_factory=dict)  # step → seconds since the start
    samples: tuple[dict[str, Any], ...] = ()  # of the machine's load, as data/timings has them

    def at(self, step: int) -> int:
        """When a step was done; the end, where nobody measured it."""
        return self.after(self.seconds[step]) if step in self.seconds else self.end

    def after(self, seconds: float) -> int:
        return self.start + round(seconds * 1000)

    @property
    def system(self) -> Iterator[tuple[str, float, float]]:
        """(name, seconds since the start, value) of the machine's load, by MLflow's names."""
        for sample in self.samples:
            for name, value in sample.items():
                if name != "seconds":
                    yield f"system/{name}", sample["seconds"], float(value)


def clock(root: Path, result: Result) -> TrainingTimes:
    """The times of a model's training; all are now, where it was trained elsewhere.

    The measurement is written when the training ends, so that its file's own time is the end.
    """
    timing = result.training
    if timing is None:
        now = int(time.time() * 1000)
        return TrainingTimes(now, now)
    end = int((root / "data/timings" / f"train-{result.name}.json").stat().st_mtime * 1000)
    points = {int(point["step"]): float(point["seconds"]) for point in timing.get("points", ())}
    start = end - round(float(timing["seconds"]) * 1000)
    return TrainingTimes(start, end, points, tuple(timing.get("system", ())))
