"""Cells of the lesson's Markdown tables; a missing number is a dash."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recurlm.report.lesson.measured import Variant
from recurlm.report.markdown import table
from recurlm.report.tables import NONE, Cell, Table


def rows(heads: tuple[str, ...], cells: Sequence[tuple[str, ...]]) -> str | None:
    """A table; None without rows."""
    return table(Table(heads, tuple(tuple(Cell(text) for text in row) for row in cells))) if cells else None


def number(value: float | None, form: str = ",") -> str:
    return NONE if value is None else format(value, form).replace("-", "−")


def percent(fraction: float | None, form: str = ".0f") -> str:
    return NONE if fraction is None else f"{number(100 * fraction, form)} %"


def score(variant: Variant, split: str, key: str) -> Any:
    """A number of data/metrics/<variant>.json; None where it lacks that key."""
    return (variant.result.metrics or {}).get(split, {}).get(key)
