"""The marks of README.md and docs/, HTML comments that are not rendered, and the text between them.

    <!-- figure: perplexity/lstm.json static.perplexity_per_token .1f -->42.2<!-- /figure -->

is a number of data/metrics: its file, its path of keys, and its Python format. A mark alone on its line,

    <!-- text: memory -->
    …
    <!-- /text -->

holds a table or a sentence that a function of recurlm.report.lesson.blocks returns from data/metrics. `timing:` is the
same from data/timings; on a machine without timings it stays as it is. `output: recurlm generate` is what the first
command of these words that stands above on the page prints.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from recurlm.errors import InputError, nearest
from recurlm.report.lesson.blocks import TEXTS, TIMINGS
from recurlm.report.lesson.measured import NOT_YET, Measured
from recurlm.report.tables import NONE
from recurlm.storage import read_json

MARK = re.compile(r"(<!-- (figure|text|timing|output): (.+?) -->)(.*?)(<!-- /\2 -->)", re.DOTALL)
OPENED = re.compile(r"<!-- (?:figure|text|timing|output): ")


def fill(
    page: str,
    measured: Measured,
    timings: bool = True,
    page_name: str = "docs/lesson.md",
    run: Callable[[str, str], str] | None = None,
) -> str:
    """The page with its marks filled.

    Args:
        timings: whether the `timing` marks are filled too; else they stay as they are.
        run: (first words of a command, the page above the mark) → its output; None: the `output` marks stay.

    Raises:
        InputError: a mark is not closed, or its name or address is unknown.
    """
    if len(MARK.findall(page)) != len(OPENED.findall(page)):
        raise InputError(f"{page_name}: a mark <!-- figure|text|timing|output: … --> is not closed by <!-- /… -->")

    def filled(mark: re.Match[str]) -> str:
        opening, kind, name, old, closing = mark.groups()
        if kind == "figure":
            return f"{opening}{figure(name, measured, page_name)}{closing}"
        if kind == "output":
            return f"{opening}\n{run(name, page[: mark.start()])}\n{closing}" if run else mark[0]
        blocks = TEXTS if kind == "text" else TIMINGS
        if name not in blocks:
            raise InputError(f"{page_name}: unknown {kind} '{name}': {nearest(name, blocks)}")
        new = blocks[name](measured) if kind == "text" or timings else None
        if new is None and kind == "timing" and old.strip():
            return mark[0]
        new = new or f"*{NOT_YET}*"
        return f"{opening}\n{new}\n{closing}"

    return MARK.sub(filled, page)


def figure(address: str, measured: Measured, page_name: str) -> str:
    """The formatted number at an address in data/metrics, such as "rnn.json test.nats_per_token .2f"; null is a dash.

    Raises:
        InputError: the file has no such number.
    """
    file, _, rest = address.partition(" ")
    keys, _, form = rest.partition(" ")
    path = measured.metrics / file
    if not path.is_file():
        return NOT_YET
    value: Any = read_json(path)
    for key in keys.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise InputError(f"{page_name}: {path} has no '{keys}'")
        value = value[key]
    if value is None:
        return NONE
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise InputError(f"{page_name}: {path}: '{keys}' is no number")
    return format(value, form).replace("-", "−")
