"""The tables of a report as plain text cells, apart from how a page draws them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from recurlm.report.results import Result, Results, Shipped

NONE = "—"


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False  # of its column
    value: float | None = None  # what a reader sorts by, where it is a number


@dataclass(frozen=True)
class Table:
    """Rows of cells under heads; the first column names the row, the others are to be read down."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    groups: tuple[tuple[str, int], ...] = ()  # heads above the heads: text and how many columns it spans
    words: int = 1  # so many columns from the left hold words, and no numbers


@dataclass(frozen=True)
class Column:
    """A number of each row: how to find it, how to write it, and whether the least or the most is best."""

    head: str
    value: Callable[[Any], Any]
    write: Callable[[Any], str]
    best: Callable[..., Any] | None = None


def count(value: int) -> str:
    return f"{value:,}"


def decimals(digits: int) -> Callable[[float], str]:
    return lambda value: f"{value:,.{digits}f}"


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


def signed_percent(value: float) -> str:
    return f"{100 * value:+.2f} %"


def megabytes(value: int) -> str:
    return f"{value / 1e6:,.1f} MB"


def tiny(value: float) -> str:
    return f"{value:.1e}" if value else "0"


def interval(bounds: Sequence[float]) -> str:
    return f"{bounds[0]:,.2f} to {bounds[1]:,.2f}"


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
    if any(one.proof is None for one in result.shipped):
        return "not yet proven"
    return "proven" if result.proven else "check failed"


def proofs(results: Results) -> Table:
    """One row a bundle: what was proven of it, and what its precision costs and brings."""

    def proof(key: str) -> Callable[[Shipped], Any]:
        return lambda shipped: (shipped.proof or {}).get(key)

    def speed(key: str) -> Callable[[Shipped], Any]:
        return lambda shipped: (shipped.generation or {}).get(key)

    rows = [(f"{result.name} {one.precision}", one) for result in results.variants for one in result.shipped]
    return rows_of(
        "bundle",
        rows,
        (
            Column("ONNX = PyTorch", lambda shipped: shipped, _passed),
            Column("size", proof("bundle_bytes"), megabytes),
            Column("perplexity on test, against PyTorch in fp32", proof("perplexity_increase"), signed_percent),
            Column("largest difference of a logit", proof("largest_logit_difference"), tiny),
            Column("greedy tokens, identical", proof("greedy_tokens_identical"), count),
            Column("sampled tokens, identical", proof("sampled_tokens_identical"), count),
            Column("near ties", proof("near_ties"), count),
            Column("chunked = whole", proof("chunked_calls_identical"), yes),
            Column("writes, tokens/s", speed("tokens_per_second"), decimals(0)),
            Column("fills, tokens/s", speed("filled_per_second"), decimals(0)),
        ),
    )


def _passed(shipped: Shipped) -> str:
    if shipped.proof is None:
        return "not yet proven"
    return "proven" if shipped.proof.get("passed") is True else "check failed"


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
            Column("ONNX in fp32 writes, tokens/s", generation("tokens_per_second"), decimals(0), max),
            Column("ONNX in fp32 fills, tokens/s", generation("filled_per_second"), decimals(0), max),
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
    """One row for each name and what its columns are read from."""
    values = [[column.value(value) for column in columns] for _, value in named]
    best = [_best(column, [row[place] for row in values]) for place, column in enumerate(columns)]
    rows = tuple(
        (
            Cell(name),
            *(
                Cell(
                    NONE if value is None else column.write(value),
                    value is not None and value == best[place],
                    float(value) if isinstance(value, int | float) else None,
                )
                for place, (column, value) in enumerate(zip(columns, row, strict=True))
            ),
        )
        for (name, _), row in zip(named, values, strict=True)
    )
    return Table((head, *(column.head for column in columns)), rows)


def _best(column: Column, values: list[Any]) -> Any:
    """The value to point out: none where there is nothing to compare."""
    known = [value for value in values if value is not None]
    return column.best(known) if column.best and any(value != known[0] for value in known) else None
