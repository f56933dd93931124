"""Progress of long work: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm

PROGRESS_SECONDS = 10.0  # between two lines, where it is no terminal


def progress_bar(
    desc: str, total: float | None, unit: str, seconds: float = PROGRESS_SECONDS, **more: Any
) -> tqdm[Any]:
    """A bar that moves on a terminal; elsewhere a line every `seconds`, and none for what is quicker."""
    terminal = sys.stderr.isatty()
    interval, delay = (0.1, 0.0) if terminal else (seconds, seconds)
    # miniters: tqdm's own choice follows the pace so far, and misses what comes after a sudden slow-down.
    return tqdm(
        desc=desc, total=total, unit=unit, unit_scale=True, mininterval=interval, miniters=1, delay=delay, **more
    )


def say(line: str) -> None:
    """Write a line to stderr; on a terminal above a bar that moves there."""
    if sys.stderr.isatty():
        tqdm.write(line, file=sys.stderr)
    else:
        sys.stderr.write(f"{line}\n")
