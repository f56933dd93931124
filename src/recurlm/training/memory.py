"""Memory: kept by the process, rather than asked for again at every step; and what to do where it is short."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable
from typing import TypeVar

import torch

from recurlm.errors import InputError

# What glibc's malloc.h calls them.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
AT_ONCE = 256 * 2**20  # bytes by which the heap grows

T = TypeVar("T")


def tune_malloc() -> None:
    """Let glibc's malloc reuse large blocks.

    By default it returns every block beyond 32 MB to the system as soon as it is free, and a step's tensors are
    faulted in anew, page by page: a third of the time of a step. Elsewhere than on glibc nothing changes.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_MAX, 0)
        mallopt(TRIM_THRESHOLD, -1)
        mallopt(TOP_PAD, AT_ONCE)


def within_memory(step: Callable[[int], T], rows: int, batch_size: int) -> T:
    """Make a step with so many rows.

    Raises:
        InputError: they do not fit into memory; it says how large a batch does, found by trying.
    """
    try:
        return step(rows)
    except (RuntimeError, MemoryError) as error:
        if not _may_be_short_of_memory(error):
            raise
        told = str(error)
    fitting = 0
    # From the smallest up: what does not fit leaves memory in pieces, and nothing after it would fit.
    for size in sorted({rows >> halvings for halvings in range(1, rows.bit_length())}):
        if not _fits(step, size):
            break
        fitting = size
    if fitting:
        # Half of it, for a process that starts anew lays its memory out in another way, and may need more.
        advice = f"{max(1, fitting // 2)} would fit: set train.batch_size to that"
    else:
        advice = f"not even a batch of 1 fits: lower train.sequence_length or the variant's hidden_size ({told})"
    raise InputError(f"params.yaml: out of memory with train.batch_size {batch_size}; {advice}")


def _fits(step: Callable[[int], object], rows: int) -> bool:
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    try:
        for _ in range(
            3
        ):  # the optimizers' memory comes with the first, and what a step leaves is in the next one's way
            step(rows)
    except (RuntimeError, MemoryError) as error:
        if not _may_be_short_of_memory(error):
            raise
        return False
    return True


def _may_be_short_of_memory(error: BaseException) -> bool:
    """On a CPU, torch's allocator and oneDNN raise plain RuntimeErrors, told from others by their words alone."""
    words = ("can't allocate memory", "not enough memory", "could not create a ", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error).lower() for word in words)
