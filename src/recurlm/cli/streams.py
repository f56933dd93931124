"""stdin, stdout and stderr, any of which may be closed, full, or a pipe that nobody reads."""

from __future__ import annotations

import os
import sys
from typing import TextIO

from recurlm.errors import InputError


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
