"""The marks of docs/lesson.md, HTML comments that no reader of the page sees, and what is put between them.

    <!-- figure: perplexity/lstm.json static.perplexity_per_token .1f -->42.2<!-- /figure -->

is a number of data/metrics: its file, its place in it, and how Python is to format it. A mark alone on its line,

    <!-- text: memory -->
    …
    <!-- /text -->

holds a table or a sentence that a function of recurlm.report.lesson.blocks makes from data/metrics. `timing:` is the
same from data/timings: measurements of one machine, which a machine that has none of its own leaves as they are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from recurlm.errors import InputError, nearest
from recurlm.report.lesson.blocks import TEXTS, TIMINGS
from recurlm.report.lesson.measured import NOT_YET, Measured
from recurlm.report.tables import NONE
from recurlm.storage import read_json

MARK = re.compile(r"(<!-- (figure|text|timing): (.+?) -->)(.*?)(<!-- /\2 -->)", re.DOTALL)
OPENED = re.compile(r"<!-- (?:figure|text|timing): ")


def fill(page: str, measured: Measured, timings: bool = True) -> str:
    """The page with what was measured between its marks.

    Args:
        timings: whether the `timing` marks are filled too; else they stay as they are.

    Raises:
        InputError: a mark is not closed, or asks for what nothing measures.
    """
    if len(MARK.findall(page)) != len(OPENED.findall(page)):
        raise InputError("docs/lesson.md: a mark <!-- figure|text|timing: … --> is not closed by <!-- /… -->")

    def filled(mark: re.Match[str]) -> str:
        opening, kind, what, old, closing = mark.groups()
        if kind == "figure":
            return f"{opening}{figure(what, measured)}{closing}"
        makers = TEXTS if kind == "text" else TIMINGS
        if what not in makers:
            raise InputError(f"docs/lesson.md: nothing makes the {kind} '{what}': {nearest(what, makers)}")
        new = makers[what](measured) if kind == "text" or timings else None
        if new is None and kind == "timing" and old.strip():
            return mark[0]
        new = new or f"*{NOT_YET}*"
        return f"{opening}\n{new}\n{closing}"

    return MARK.sub(filled, page)


def figure(what: str, measured: Measured) -> str:
    """A number of data/metrics by its address; null is a dash.

    Raises:
        InputError: the address is not of three parts or two, or the file has no such number.
    """
    file, _, rest = what.partition(" ")
    place, _, form = rest.partition(" ")
    path = measured.metrics / file
    if not path.is_file():
        return NOT_YET
    value: Any = read_json(path)
    for key in place.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise InputError(f"docs/lesson.md: {path} has no '{place}'")
        value = value[key]
    if value is None:
        return NONE
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"docs/lesson.md: {path}: '{place}' is no number")
    return format(value, form).replace("-", "−")
