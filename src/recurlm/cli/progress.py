"""How far a long command is, on stderr: one line that is updated on a terminal, elsewhere a line now and then."""

from __future__ import annotations

import sys
import time

from recurlm.cli.streams import show

TERMINAL_SECONDS, LINE_SECONDS = 0.2, 5.0  # between two updates


class Progress:
    """Call it with what is done and what there is; `unit` says of what, such as "blanks"."""

    def __init__(self, unit: str, scale: float = 1.0) -> None:
        self.unit, self.scale = unit, scale
        self.terminal = sys.stderr is not None and sys.stderr.isatty()
        self.start = self.updated = time.monotonic()

    def __call__(self, done: float, total: float) -> None:
        now = time.monotonic()
        due = now - self.updated > (TERMINAL_SECONDS if self.terminal else LINE_SECONDS)
        if sys.stderr is None or not (due or (self.terminal and done == total and self.updated > self.start)):
            return
        self.updated = now
        left = (now - self.start) / done * (total - done) if done else 0.0
        size = total / self.scale
        line = f"{done / total:4.0%} of {size:,.{1 if self.scale > 1 else 0}f} {self.unit}, {left:,.0f} s left"
        if self.terminal:
            show(f"\r\033[K{line if done < total else ''}")
        elif done < total:
            show(f"{line.strip()}\n")
