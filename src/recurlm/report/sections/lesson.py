"""The lesson's claims, each beside the measurement that tests it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from recurlm.report.frames import Row, read_frame
from recurlm.report.lesson import claims
from recurlm.report.results import JsonObject, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import Column, Table, count, decimals, rows_of

SOURCES = (
    "data/metrics/diagnostics/<variant>.json",
    "data/timings/train-<variant>.json",
    "data/timings/generate-<variant>.json",
    "data/timings/length-<variant>.json",
)


def measured(results: Results) -> Section:
    lessons = read_frame(results, "diagnostics", _lesson)
    by_name = {row["variant"]: row for row in lessons.rows}
    table = rows_of(
        "variant",
        [(result.name, by_name.get(result.name, {}) | _speeds(result)) for result in results.variants],
        (
            Column("gates", _of("gates"), count),
            Column("parameters", _of("parameters"), count),
            Column("state size", _of("state_size"), count),
            Column("effective context, tokens", _of("effective_context_tokens"), count),
            Column("gradient below 1 % at k, before training", _of("gradient_vanished_at_before_training"), count),
            Column("after training", _of("gradient_vanished_at_after_training"), count),
            Column("training, tokens/s", _of("training"), decimals(0)),
            Column("generation in fp32, tokens/s", _of("generation"), decimals(0)),
            Column("mask filling, tokens/s", _of("filling"), decimals(0)),
        ),
    )
    spans = (("", 1), ("size", 3), ("memory", 3), ("speed on this machine", 3))
    return Section(
        "The lesson, measured",
        (
            "Gates, memory and speed as numbers. The variants have about equal parameter counts, not equal hidden "
            "sizes, so speeds compare models of one size. Generation and mask filling by onnxruntime.",
            "A verdict on a claim follows from the figures beside it. By little: they point the lesson's way, by less "
            f"than {claims.FARTHER:g} times as far, {claims.FASTER:g} times as fast, or {claims.LOWER:.0%} of a loss "
            "or perplexity. Dropout is judged by validation loss, not by the gap to the training loss.",
        ),
        Table(table.heads, table.rows, spans),
        tables=(("What the lesson claims", claims.table(results)),),
        gaps=lessons.gaps,
        sources=SOURCES,
    )


def _of(key: str) -> Callable[[Row], Any]:
    return lambda row: row.get(key)


def _lesson(_: Result, diagnostics: JsonObject) -> Iterable[Row]:
    yield dict(diagnostics["lesson"])


def _speeds(result: Result) -> Row:
    inference = result.generation_timings or {}
    return {
        "training": (result.training_timings or {}).get("tokens_per_second"),
        "generation": inference.get("tokens_per_second"),
        "filling": inference.get("filled_per_second"),
    }
