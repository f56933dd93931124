"""The machine that trains: how its memory is used, how busy it is, and what is said where memory is short."""

from __future__ import annotations

import ctypes
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import torch

from recurlm.errors import InputError

SAMPLE_SECONDS = 10.0
# What glibc's malloc.h calls them.
TRIM_THRESHOLD, TOP_PAD, MMAP_MAX = -1, -2, -4
AT_ONCE = 256 * 2**20  # bytes by which the heap grows


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


TRAINING, EVALUATION = "train.data.batch_size", "train.evaluation.batch_size"  # of params.yaml


@contextmanager
def out_of_memory_is_bad_input(batch_size: int, key: str = TRAINING) -> Iterator[None]:
    """Turn an allocation that fails into one line.

    Args:
        key: under which params.yaml has the batch size.

    Raises:
        InputError: memory is short.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not _is_out_of_memory(error):
            raise
        reason = " ".join(str(error).split())
        length = "train.data.sequence_length" if key == TRAINING else "train.evaluation.window_tokens"
        raise InputError(
            f"params.yaml: out of memory with {key} {batch_size}: lower {key}, "
            f"{length} or the variant's hidden_size ({reason[:200]})"
        ) from None


def _is_out_of_memory(error: BaseException) -> bool:
    """On a CPU, torch's allocator and oneDNN raise plain RuntimeErrors, told from others by their words alone."""
    words = ("can't allocate memory", "not enough memory", "could not create a ", "out of memory")
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(word in str(error).lower() for word in words)


class SystemMetrics:
    """The processors' load since the sample before, and this process's memory, by MLflow's names."""

    def __init__(self) -> None:
        self._last = time.monotonic()
        psutil.cpu_percent()  # what comes after is counted from here

    def sample(self) -> dict[str, float] | None:
        """A sample, if it is time for one."""
        now = time.monotonic()
        if now - self._last < SAMPLE_SECONDS:
            return None
        self._last = now
        return {
            "system/cpu_utilization_percentage": psutil.cpu_percent(),
            "system/process_memory_usage_megabytes": psutil.Process().memory_info().rss / 1e6,
        }
