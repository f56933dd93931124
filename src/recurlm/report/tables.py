"""Tables of cells that are ready to be read, and how their numbers are written; independent of Markdown and HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

NONE = "—"
MOST_PER_WORD = 100_000  # more than a corpus has different words


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False  # of its column
    value: float | None = None  # what a reader sorts by, where it is a number
    note: str = ""  # beside it, such as its interval


@dataclass(frozen=True)
class Table:
    """Rows of cells under heads; the first column names the row."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    words: int = 1  # number of columns from the left that hold words


@dataclass(frozen=True)
class Column:
    """A column of a data frame: how `show` formats it, its head, and whether the lowest or the highest is best.

    Columns `<name> low` and `<name> high` hold its interval, where it has one.
    """

    name: str
    form: str = ","
    head: str = ""
    best: Literal["", "min", "max"] = ""


def show(value: Any, form: str = ",") -> str:
    """A number as text: Python's format, or MB, or one that ends in %; a dash where there is none.

    `word` is for perplexities per word: of a model of characters that has hardly learned, one says nothing.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, str):
        return value
    if form == "word":
        return show(value, ",.1f") if value <= MOST_PER_WORD else f"over {MOST_PER_WORD:,}"
    if form == "MB":
        return f"{value / 1e6:,.1f} MB"
    if form.endswith("%"):
        return f"{show(100 * value, f'{form[:-1]}f' if form[-2:-1].isdigit() else form[:-1])} %"
    if form.endswith("e") and value == 0:
        return "0"
    if form == "," and float(value).is_integer():
        value = int(value)  # a data frame holds counts as floats
    return format(value, form).replace("-", "−")


def label(metric: str) -> str:
    """A metric's name for a reader: `pseudo_bits_per_byte` is pseudo-bits per byte."""
    return re.sub(r"^pseudo ", "pseudo-", metric.replace("_", " "))


def grid(head: str, frame: pd.DataFrame, columns: Iterable[Column], caption: str = "") -> Table:
    """A row for each row of the frame, which its index names; columns that it lacks are dashes."""
    columns = tuple(columns)
    names = [Cell(name if isinstance(name, str) else ", ".join(map(str, name))) for name in frame.index]
    rows = zip(names, *(_cells(frame, column) for column in columns), strict=True)
    return Table((head, *(column.head or label(column.name) for column in columns)), tuple(rows), caption)


def _cells(frame: pd.DataFrame, column: Column) -> Iterator[Cell]:
    """The cells of a column; the best is marked, unless all are equal."""
    missing = pd.Series(None, frame.index, dtype=object)
    values, low, high = (frame.get(f"{column.name}{bound}", missing) for bound in ("", " low", " high"))
    known = values.dropna()
    best = getattr(known, column.best)() if column.best and known.nunique() > 1 else None
    for value, *bounds in zip(values, low, high, strict=True):
        number = float(value) if isinstance(value, int | float) and not math.isnan(value) else None
        note = "" if pd.isna(bounds[0]) else " to ".join(show(bound, column.form) for bound in bounds)
        yield Cell(show(value, column.form), number is not None and number == best, number, note)


def rows_of(heads: Sequence[str], cells: Iterable[Sequence[str]], words: int = 1, caption: str = "") -> Table:
    """A table of texts."""
    return Table(tuple(heads), tuple(tuple(map(Cell, row)) for row in cells), caption, words)


def markdown(table: Table) -> str:
    """A Markdown table: the first column left-aligned, all others right-aligned."""
    heads = [escape_markdown(head) for head in table.heads]
    rule = [":--", *("--:" for _ in heads[1:])]
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


def _markdown_cell(cell: Cell) -> str:
    text = f"**{escape_markdown(cell.text)}**" if cell.best else escape_markdown(cell.text)
    return f"{text} ({cell.note})" if cell.note else text


def escape_markdown(text: str) -> str:
    """The text with all Markdown markup escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))
