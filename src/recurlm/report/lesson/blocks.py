"""The registry of the lesson's tables and sentences: name in a mark → function."""

from __future__ import annotations

from collections.abc import Callable

from recurlm.report.lesson import flow, generation, learning, memory, scores, speeds
from recurlm.report.lesson.measured import Measured

Block = Callable[[Measured], str | None]  # None: not measured yet

TEXTS: dict[str, Block] = {
    "position": flow.position,
    "cold": flow.cold,
    "gates": flow.gates,
    "comparison": memory.comparison,
    "memory": memory.verdict,
    "remember": memory.remember,
    "sizes": memory.sizes,
    "gradients": flow.gradients,
    "context": flow.context,
    "temperatures": generation.temperatures,
    "excerpts": generation.excerpts,
    "bidirectional": generation.bidirectional,
    "overfitting": learning.overfitting,
    "dropout": learning.dropout,
    "adaptive": learning.adaptive,
    "directions": speeds.directions,
    "claims": memory.claims_of_metrics,
    "overview": scores.overview,
    "results": scores.results,
    "intervals": scores.intervals,
    "interval sentence": scores.interval_sentence,
    "precisions": scores.precisions,
    "diagnostics": scores.diagnostics,
}

TIMINGS: dict[str, Block] = {
    "speed": speeds.speed,
    "growth": speeds.growth,
    "claims": speeds.claims_of_timings,
}
