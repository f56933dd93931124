"""The lesson's claims, each beside the measurement that tests it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from recurlm.report.frames import Row, read_frame
from recurlm.report.results import JsonObject, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import NONE, Cell, Column, Table, count, decimals, rows_of

SOURCES = (
    "data/metrics/diagnostics/<variant>.json",
    "data/timings/train-<variant>.json",
    "data/timings/generate-<variant>.json",
    "data/timings/diagnose-<variant>.json",
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
        ),
        Table(table.heads, table.rows, spans),
        tables=(("What the lesson claims", _claims(results)),),
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


def _claims(results: Results) -> Table:
    """Claim → a figure of each variant that has one."""
    claims: tuple[tuple[str, str, Callable[[Result], str | None]], ...] = (
        ("gradients vanish", "gradient norm at k = 20 over that at k = 1, after training", _norm_ratio_at_20),
        ("gates keep a memory longer", "effective context, tokens", _effective_context),
        ("more gates, slower", "training, tokens/s", _training_speed),
        ("dropout reduces overfitting", "gap of the short run, without → with", _gap),
        ("bidirectional doubles the output", "output size from hidden size", _output),
        ("long sequences need something else", "exponent p of generation time ∝ lengthᵖ", _growth),
    )
    rows = []
    for claim, measure, read in claims:
        cells = [Cell(_read_or_none(read, result) or NONE) for result in results.variants]
        rows.append((Cell(claim), Cell(measure), *cells))
    return Table(("claim", "measured as", *(result.name for result in results.variants)), tuple(rows), words=2)


def _read_or_none(read: Callable[[Result], str | None], result: Result) -> str | None:
    """A figure; None where its file is missing or has another shape, which the gaps above name."""
    try:
        return read(result)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError):
        return None


def _norm_ratio_at_20(result: Result) -> str | None:
    curve = result.diagnosis.files["diagnostics"]["gradients"]["after_training"]
    norms = dict(zip(curve["k"], curve["state_mean"], strict=True))
    return f"{norms[20] / norms[1]:.2%}"


def _effective_context(result: Result) -> str | None:
    tokens = result.diagnosis.files["diagnostics"]["lesson"]["effective_context_tokens"]
    return None if tokens is None else f"{tokens}{result.objective.context_side}"


def _training_speed(result: Result) -> str | None:
    return f"{result.training_timings['tokens_per_second']:,.0f}" if result.training_timings else None


def _gap(result: Result) -> str | None:
    runs = result.diagnosis.files["diagnostics"]["overfitting"]["short_runs"]["runs"]
    return f"{runs[0]['gap']:.2f} → {runs[1]['gap']:.2f} {result.objective.unit('nats')}"


def _output(result: Result) -> str | None:
    lesson = result.diagnosis.files["diagnostics"]["lesson"]
    return f"{lesson['output_size']} from {lesson['hidden_size']}"


def _growth(result: Result) -> str | None:
    growth = result.diagnosis.files["timings"]["generation_growth"]
    return None if growth is None else f"{growth:.2f}"
