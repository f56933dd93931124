"""The lesson's claims, each beside what was measured."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from recurlm.report.found import Row, gather
from recurlm.report.results import Numbers, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import NONE, Cell, Column, Table, count, decimals, rows_of

SOURCES = (
    "data/metrics/diagnostics/<variant>.json",
    "data/timings/train-<variant>.json",
    "data/timings/generate-<variant>.json",
    "data/timings/diagnose-<variant>.json",
)


def measured(results: Results) -> Section:
    lessons = gather(results, "diagnostics", _lesson)
    by_name = {row["variant"]: row for row in lessons.rows}
    table = rows_of(
        "variant",
        [(result.name, by_name.get(result.name, {}) | _speeds(result)) for result in results.variants],
        (
            Column("gates", _of("gates"), count),
            Column("parameters", _of("parameters"), count),
            Column("numbers in its state", _of("state_numbers"), count),
            Column("effective context, tokens", _of("effective_context_tokens"), count),
            Column("gradient below 1 % at k, before training", _of("gradient_vanished_at_before_training"), count),
            Column("after training", _of("gradient_vanished_at_after_training"), count),
            Column("trains, tokens/s", _of("trains"), decimals(0)),
            Column("onnxruntime in fp32, tokens/s", _of("writes"), decimals(0)),
            Column("fills, tokens/s", _of("fills"), decimals(0)),
        ),
    )
    spans = (("", 1), ("size", 3), ("memory", 3), ("speed on this machine", 3))
    return Section(
        "The lesson, measured",
        (
            "Gates, memory and speed as numbers. The variants have about as many parameters as one another, not "
            "as many hidden units: speeds are those of models of one size.",
        ),
        Table(table.heads, table.rows, spans),
        tables=(("What the lesson claims", _claims(results)),),
        gaps=lessons.gaps,
        sources=SOURCES,
    )


def _of(key: str) -> Callable[[Row], Any]:
    return lambda row: row.get(key)


def _lesson(_: Result, found: Numbers) -> Iterable[Row]:
    yield dict(found["lesson"])


def _speeds(result: Result) -> Row:
    made = result.generation or {}
    return {
        "trains": (result.training or {}).get("tokens_per_second"),
        "writes": made.get("tokens_per_second"),
        "fills": made.get("filled_per_second"),
    }


def _claims(results: Results) -> Table:
    """Claim → a figure of each variant that has one."""
    claims: tuple[tuple[str, str, Callable[[Result], str | None]], ...] = (
        ("gradients vanish", "share of the norm at k = 1 that is left at k = 20, trained", _left_at_20),
        ("gates keep a memory longer", "tokens of context that matter", _effective),
        ("more gates, slower", "tokens/s of training", _trains),
        ("dropout helps against overfitting", "gap of the short run, without → with", _gap),
        ("bidirectional doubles the output", "output size from hidden size", _output),
        ("long sequences want something else", "seconds of writing grow as length to the power of", _growth),
    )
    rows = []
    for claim, what, read in claims:
        cells = [Cell(_tried(read, result) or NONE) for result in results.variants]
        rows.append((Cell(claim), Cell(what), *cells))
    return Table(("claim", "measured as", *(result.name for result in results.variants)), tuple(rows), words=2)


def _tried(read: Callable[[Result], str | None], result: Result) -> str | None:
    """A figure, or nothing where its file is missing or of another shape: the gaps above say which."""
    try:
        return read(result)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError):
        return None


def _left_at_20(result: Result) -> str | None:
    block = result.diagnosis.found["diagnostics"]["gradients"]["after_training"]
    norms = dict(zip(block["k"], block["state_mean"], strict=True))
    return f"{norms[20] / norms[1]:.2%}"


def _effective(result: Result) -> str | None:
    tokens = result.diagnosis.found["diagnostics"]["lesson"]["effective_context_tokens"]
    sides = "" if result.causal else " a side"
    return None if tokens is None else f"{tokens}{sides}"


def _trains(result: Result) -> str | None:
    return f"{result.training['tokens_per_second']:,.0f}" if result.training else None


def _gap(result: Result) -> str | None:
    runs = result.diagnosis.found["diagnostics"]["overfitting"]["short_runs"]["runs"]
    unit = "nats" if result.causal else "pseudo-nats"
    return f"{runs[0]['gap']:.2f} → {runs[1]['gap']:.2f} {unit}"


def _output(result: Result) -> str | None:
    lesson = result.diagnosis.found["diagnostics"]["lesson"]
    return f"{lesson['output_size']} from {lesson['hidden_size']}"


def _growth(result: Result) -> str | None:
    growth = result.diagnosis.found["timings"]["generation_growth"]
    return None if growth is None else f"{growth:.2f}"
