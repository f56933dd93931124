"""The tables of a report as plain text cells, apart from how a page draws them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from recurlm.report.results import Result, Results

NONE = "—"


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False  # of its column


@dataclass(frozen=True)
class Table:
    """Rows of cells under heads; the first column names the row, the others are to be read down."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()  # heads above the heads: text and how many columns it spans


@dataclass(frozen=True)
class Column:
    """A number of each variant: how to find it, how to write it, and whether the least or the most is best."""

    head: str
    value: Callable[[Result], Any]
    write: Callable[[Any], str]
    best: Callable[..., Any] | None = None


def count(value: int) -> str:
    return f"{value:,}"


def decimals(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}"


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def megabytes(value: int) -> str:
    return f"{value / 1e6:,.1f} MB"


def tiny(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def yes(value: bool) -> str:
    return "yes" if value else "no"


def comparison(results: Results) -> Table:
    """One row a variant: its scores on the test split, what it is, and what ships."""
    others = (
        Column("parameters", lambda result: result.parameters, count),
        Column("layers × hidden", lambda result: result.block, lambda b: f"{b['layers']} × {b['hidden_size']}"),
        Column("gates", lambda result: result.model.get("gates"), str),
        Column("bundle", lambda result: result.bundle_bytes, megabytes),
        Column("ONNX = PyTorch", lambda result: result, _proof_in_a_word),
    )
    return _scores(results, "test", others)


def validation(results: Results) -> Table:
    return _scores(results, "validation", ())


def _scores(results: Results, split: str, others: tuple[Column, ...]) -> Table:
    """The scores of a split and other columns; the cloze models' pseudo-numbers have columns of their own."""
    causal = _quality(split, "")
    cloze = _quality(split, "pseudo_") if any(not result.causal for result in results.variants) else ()
    words = Column("words out of vocabulary", _score(split, "out_of_vocabulary_rate"), percent)
    table = _table(results, (*causal, *cloze, words, *others))
    spans = (("", 1), ("left to right", len(causal)), ("cloze", len(cloze)), ("", 1 + len(others)))
    return Table(table.heads, table.rows, spans if cloze else ())


def _quality(split: str, pseudo: str) -> tuple[Column, ...]:
    dash = pseudo.replace("_", "-")
    return (
        Column(f"{dash}perplexity per token", _score(split, f"{pseudo}perplexity_per_token"), decimals(2), min),
        Column(f"{dash}perplexity per word", _score(split, f"{pseudo}perplexity_per_word"), decimals(1), min),
        Column(f"{dash}bits per byte", _score(split, f"{pseudo}bits_per_byte"), decimals(4), min),
    )


def _score(split: str, key: str) -> Callable[[Result], Any]:
    return lambda result: (result.metrics or {}).get(split, {}).get(key)


def _proof_in_a_word(result: Result) -> str:
    if result.proof is None:
        return "not yet proven"
    return "proven" if result.proven else "check failed"


def proofs(results: Results) -> Table:
    def of(key: str) -> Callable[[Result], Any]:
        return lambda result: (result.proof or {}).get(key)

    return _table(
        results,
        (
            Column("ONNX = PyTorch", lambda result: result, _proof_in_a_word),
            Column("largest difference of a logit", of("largest_logit_difference"), tiny),
            Column("difference in nats per token", of("scorer_nats_difference"), tiny),
            Column("greedy tokens, identical", of("greedy_tokens_identical"), count),
            Column("sampled tokens, identical", of("sampled_tokens_identical"), count),
            Column("near ties", of("near_ties"), count),
            Column("chunked = whole", of("chunked_calls_identical"), yes),
        ),
    )


def timings(results: Results) -> Table | None:
    """What this machine measured of these very models; None if it measured none of them."""
    if not any(result.training or result.generation for result in results.variants):
        return None

    def training(key: str) -> Callable[[Result], Any]:
        return lambda result: (result.training or {}).get(key)

    def generation(key: str) -> Callable[[Result], Any]:
        return lambda result: (result.generation or {}).get(key)

    return _table(
        results,
        (
            Column("training, tokens/s", training("tokens_per_second"), decimals(0), max),
            Column("training, seconds", training("seconds"), decimals(0)),
            Column("device", training("device"), str),
            Column("precision", training("precision"), str),
            Column("threads", training("threads"), str),
            Column("ONNX writes, tokens/s", generation("tokens_per_second"), decimals(0), max),
            Column("ONNX fills, tokens/s", generation("filled_per_second"), decimals(0), max),
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
    values = [[column.value(result) for column in columns] for result in results.variants]
    best = [_best(column, [row[place] for row in values]) for place, column in enumerate(columns)]
    rows = tuple(
        (
            Cell(result.name),
            *(
                Cell(NONE if value is None else column.write(value), value is not None and value == best[place])
                for place, (column, value) in enumerate(zip(columns, row, strict=True))
            ),
        )
        for result, row in zip(results.variants, values, strict=True)
    )
    return Table(("variant", *(column.head for column in columns)), rows)


def _best(column: Column, values: list[Any]) -> Any:
    """The value to point out: none where there is nothing to compare."""
    known = [value for value in values if value is not None]
    return column.best(known) if column.best and any(value != known[0] for value in known) else None
