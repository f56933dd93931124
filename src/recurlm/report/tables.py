"""The tables of a report as text cells, independent of Markdown and HTML."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recurlm.report.objectives import OBJECTIVES, Objective
from recurlm.report.results import BundleResult, Result, Results

NONE = "—"
MOST_PER_WORD = 100_000  # more than a corpus has different words


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False  # of its column
    value: float | None = None  # what a reader sorts by, where it is a number


@dataclass(frozen=True)
class Table:
    """Rows of cells under heads; the first column names the row."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()  # heads above the heads: text and how many columns it spans
    words: int = 1  # number of columns from the left that hold words


@dataclass(frozen=True)
class Column:
    """A value of each row: how to read it, how to format it, and whether `min` or `max` is best."""

    head: str
    value: Callable[[Any], Any]
    format: Callable[[Any], str]
    best: Callable[..., Any] | None = None


def count(value: int) -> str:
    return f"{value:,}"


def decimals(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}"


def per_word(value: float) -> str:
    """A perplexity per word; of a model of characters that has hardly learned, it is a number that says nothing."""
    return decimals(1)(value) if value <= MOST_PER_WORD else f"over {MOST_PER_WORD:,}"


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def signed_percent(value: float) -> str:
    return f"{100 * value:+.2f} %"


def megabytes(value: int) -> str:
    return f"{value / 1e6:,.1f} MB"


def scientific(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:,.2f} to {bounds[1]:,.2f}"


def yes(value: bool) -> str:
    return "yes" if value else "no"


def comparison(results: Results) -> Table:
    """One row per variant: test scores, size and verification."""
    others = (
        Column("parameters", lambda result: result.parameters, count),
        Column("layers × hidden", lambda result: result.model_config, lambda b: f"{b['layers']} × {b['hidden_size']}"),
        Column("gates", lambda result: result.model.get("gates"), str),
        Column("bundle", lambda result: result.bundle_bytes, megabytes),
        Column("ONNX = PyTorch", lambda result: result, _verification_status),
    )
    return _scores(results, "test", others)


def validation(results: Results) -> Table:
    return _scores(results, "validation", ())


def _scores(results: Results, split: str, others: tuple[Column, ...]) -> Table:
    """The scores of a split, each objective's in columns of its own, and other columns."""
    present = {result.objective for result in results.variants}
    shown = [objective for objective in OBJECTIVES if objective in present or not objective.pseudo]
    scores = [_quality(split, objective) for objective in shown]
    words = Column("words out of vocabulary", _score(split, "out_of_vocabulary_rate"), percent)
    table = _table(results, (*itertools.chain(*scores), words, *others))
    labels = ((objective.label, len(columns)) for objective, columns in zip(shown, scores, strict=True))
    return Table(table.heads, table.rows, (("", 1), *labels, ("", 1 + len(others))) if len(shown) > 1 else ())


def _quality(split: str, objective: Objective) -> tuple[Column, ...]:
    def score(key: str) -> Callable[[Result], Any]:
        return _score(split, objective.metric(key))

    return (
        Column(objective.unit("perplexity per token"), score("perplexity_per_token"), decimals(2), min),
        Column(objective.unit("perplexity per word"), score("perplexity_per_word"), per_word, min),
        Column(objective.unit("bits per byte"), score("bits_per_byte"), decimals(4), min),
    )


def _score(split: str, key: str) -> Callable[[Result], Any]:
    return lambda result: (result.metrics or {}).get(split, {}).get(key)


def _verification_status(each: Result | BundleResult) -> str:
    bundles = each.bundles if isinstance(each, Result) else (each,)
    if any(bundle.verification is None for bundle in bundles):
        return "not yet verified"
    return "verified" if each.verified else "check failed"


def verifications(results: Results) -> Table:
    """One row per bundle: its verification, its size, its perplexity increase and its speed."""

    def verification(key: str) -> Callable[[BundleResult], Any]:
        return lambda bundle: (bundle.verification or {}).get(key)

    def speed(key: str) -> Callable[[BundleResult], Any]:
        return lambda bundle: (bundle.timings or {}).get(key)

    rows = [(f"{result.name} {bundle.precision}", bundle) for result in results.variants for bundle in result.bundles]
    return rows_of(
        "bundle",
        rows,
        (
            Column("ONNX = PyTorch", lambda bundle: bundle, _verification_status),
            Column("size", verification("bundle_bytes"), megabytes),
            Column(
                "perplexity increase on test, over PyTorch in fp32", verification("perplexity_increase"), signed_percent
            ),
            Column("largest logit difference", verification("largest_logit_difference"), scientific),
            Column("identical greedy tokens", verification("greedy_tokens_identical"), count),
            Column("identical sampled tokens", verification("sampled_tokens_identical"), count),
            Column("near ties", verification("near_ties"), count),
            Column("chunked calls identical", verification("chunked_calls_identical"), yes),
            Column("generation, tokens/s", speed("tokens_per_second"), decimals(0)),
            Column("mask filling, tokens/s", speed("filled_per_second"), decimals(0)),
        ),
    )


def timings(results: Results) -> Table | None:
    """Training and inference speeds on this machine; None if it has timings of none of these models."""
    if not any(result.training_timings or result.generation_timings for result in results.variants):
        return None

    def training(key: str) -> Callable[[Result], Any]:
        return lambda result: (result.training_timings or {}).get(key)

    def generation(key: str) -> Callable[[Result], Any]:
        return lambda result: (result.generation_timings or {}).get(key)

    return _table(
        results,
        (
            Column("training, tokens/s", training("tokens_per_second"), decimals(0), max),
            Column("training, seconds", training("seconds"), decimals(0)),
            Column("device", training("device"), str),
            Column("precision", training("precision"), str),
            Column("threads", training("threads"), str),
            Column("generation in fp32, tokens/s", generation("tokens_per_second"), decimals(0), max),
            Column("mask filling in fp32, tokens/s", generation("filled_per_second"), decimals(0), max),
            Column("threads", generation("threads"), str),
        ),
    )


def corpus(results: Results) -> Table | None:
    if not results.tokens and not results.corpus:
        return None
    texts = (results.corpus or {}).get("splits", {})
    tokens = (results.tokens or {}).get("splits", {})
    keys = ("documents", "bytes", "characters", "words", "tokens")

    def cell(split: str, key: str) -> Cell:
        value = tokens.get(split, {}).get(key, texts.get(split, {}).get(key))
        return Cell(NONE if value is None else count(value))

    splits = [split for split in ("train", "validation", "test") if split in texts or split in tokens]
    rows = tuple((Cell(split), *(cell(split, key) for key in keys)) for split in splits)
    return Table(("split", *keys), rows)


def _table(results: Results, columns: tuple[Column, ...]) -> Table:
    return rows_of("variant", [(result.name, result) for result in results.variants], columns)


def rows_of(head: str, named: Sequence[tuple[str, Any]], columns: tuple[Column, ...]) -> Table:
    """One row per (name, object that the columns read)."""
    values = [[column.value(value) for column in columns] for _, value in named]
    best = [_best(column, [row[index] for row in values]) for index, column in enumerate(columns)]
    rows = tuple(
        (
            Cell(name),
            *(
                Cell(
                    NONE if value is None else column.format(value),
                    value is not None and value == best[index],
                    float(value) if isinstance(value, int | float) else None,
                )
                for index, (column, value) in enumerate(zip(columns, row, strict=True))
            ),
        )
        for (name, _), row in zip(named, values, strict=True)
    )
    return Table((head, *(column.head for column in columns)), rows)


def _best(column: Column, values: list[Any]) -> Any:
    """The best value of a column; None where all are equal."""
    known = [value for value in values if value is not None]
    return column.best(known) if column.best and any(value != known[0] for value in known) else None
