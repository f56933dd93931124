"""Rows for a chart or a table from what stage diagnose left, and a line for each variant that has none."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

from recurlm.report.results import DIAGNOSED, Numbers, Result, Results

Row = dict[str, Any]
Found = TypeVar("Found")
NOT_THAT_SHAPE = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Gathered:
    rows: tuple[Row, ...]
    gaps: tuple[str, ...]  # "lstm: data/metrics/… is missing"


def gather(results: Results, part: str, read: Callable[[Result, Numbers], Iterable[Row]]) -> Gathered:
    """What `read` makes of one file of each variant.

    A file that is missing, or was written by another version of this project, is a gap and no error: the other
    variants keep their page.
    """
    rows: list[Row] = []
    gaps = []
    for result in results.variants:
        found = result.diagnosis.found.get(part)
        if found is None:
            gaps.append(f"{result.name}: {result.diagnosis.problems.get(part, 'no diagnosis')}")
            continue
        try:
            rows += [{"variant": result.name, "causal": result.causal, **row} for row in read(result, found)]
        except NOT_THAT_SHAPE as error:
            kind = type(error).__name__
            gaps.append(f"{result.name}: {file(part, result)} does not hold what is shown here ({kind}: {error})")
    return Gathered(tuple(rows), tuple(gaps))


def tried(read: Callable[[], Found]) -> Found | None:
    """What is found in a file, or None where it is not there in that shape."""
    try:
        return read()
    except NOT_THAT_SHAPE:
        return None


def file(part: str, result: Result) -> str:
    return DIAGNOSED[part].format(result.name)


def pseudo(result: Result, key: str) -> str:
    """The name of a score, which says so where it is a cloze model's."""
    return key if result.causal else f"pseudo_{key}"
