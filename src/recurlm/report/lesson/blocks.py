"""The registry of the lesson's tables and sentences: the name in a mark → what makes it."""

from __future__ import annotations

from collections.abc import Callable

from recurlm.report.lesson import flow, learning, memory, speeds, writing
from recurlm.report.lesson.measured import Measured

Block = Callable[[Measured], str | None]  # None: nothing was measured yet

TEXTS: dict[str, Block] = {
    "position": flow.position,
    "gates": flow.gates,
    "comparison": memory.comparison,
    "memory": memory.verdict,
    "sizes": memory.sizes,
    "gradients": flow.gradients,
    "context": flow.context,
    "temperatures": writing.temperatures,
    "excerpts": writing.excerpts,
    "both sides": writing.both_sides,
    "overfitting": learning.overfitting,
    "dropout": learning.dropout,
    "adaptive": learning.adaptive,
}

TIMINGS: dict[str, Block] = {
    "speed": speeds.speed,
    "growth": speeds.growth,
}
