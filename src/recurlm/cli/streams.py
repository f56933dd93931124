"""stdin, stdout and stderr, any of which may be closed, full, or a pipe that nobody reads; progress on stderr."""

from __future__ import annotations

import os
import sys
import time
from typing import TextIO

from recurlm.errors import InputError

TERMINAL_SECONDS, LINE_SECONDS = 0.2, 5.0  # between two updates


def reserve() -> None:
    """Let /dev/null stand in for a standard file that is closed.

    Its number would go to the next file that is opened, and onnxruntime prints its errors to number 2.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free


def discard(stream: TextIO | None) -> None:
    """Send what a stream still holds to /dev/null: Python flushes once more at exit, which must not fail again."""
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def write(text: str) -> None:
    """Print to stdout at once.

    Raises:
        InputError: it cannot be written.
        BrokenPipeError: nobody reads it any more.
    """
    if sys.stdout is None:
        return
    try:
        sys.stdout.write(text)
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        discard(sys.stdout)
        raise InputError(f"cannot write to stdout: {error.strerror}: the output is not complete") from None


def show(text: str) -> None:
    """Print to stderr at once, if that is possible: what goes there is a help, and no result."""
    try:
        if sys.stderr is not None:
            sys.stderr.write(text)
            sys.stderr.flush()
    except OSError:
        discard(sys.stderr)


class Progress:
    """How far a long command is: one line that is updated on a terminal, elsewhere a line now and then.

    Call it with what is done and what there is; `unit` says of what, such as "masks".
    """

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
