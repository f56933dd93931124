"""Rows for charts and tables from the files of stage diagnose, and one line for each variant that lacks them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from recurlm.report.results import DIAGNOSTIC_FILES, JsonObject, Result, Results

Row = dict[str, Any]
WRONG_SHAPE = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)


@dataclass(frozen=True)
class Frame:
    """Rows in long format; each names its variant and its objective."""

    rows: tuple[Row, ...]
    gaps: tuple[str, ...]  # "lstm: data/metrics/… is missing"


def read_frame(results: Results, part: str, parse: Callable[[Result, JsonObject], Iterable[Row]]) -> Frame:
    """The rows that `parse` reads from one file of each variant.

    A file that is missing, or was written by another version of this project, is a gap and not an error: the other
    variants keep their rows.

    Args:
        part: a key of `DIAGNOSTIC_FILES`.
    """
    rows: list[Row] = []
    gaps = []
    for result in results.variants:
        content = result.diagnosis.files.get(part)
        if content is None:
            gaps.append(f"{result.name}: {result.diagnosis.problems.get(part, 'no diagnosis')}")
            continue
        head = {"variant": result.name, "objective": result.objective.name}
        try:
            rows += [head | row for row in parse(result, content)]
        except WRONG_SHAPE as error:
            kind = type(error).__name__
            file = DIAGNOSTIC_FILES[part].format(result.name)
            gaps.append(f"{result.name}: {file} does not hold what is shown here ({kind}: {error})")
    return Frame(tuple(rows), tuple(gaps))
