"""Text in shards: files of a bounded size, made side by side in several processes, each once.

A text of one shard is one file, `train.txt`; a larger one goes on in `train-00001.txt` and so on. How it is cut depends
on the text alone, so the number of processes changes no byte.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from recurlm.errors import KilledError
from recurlm.stage import end_with_parent
from recurlm.storage import read_json, write_json

SHARD = 1 << 26  # bytes of text, about

Progress = Callable[[int], object]
"""Told the size of what was done since it was called last."""


def shard_path(folder: Path, split: str, number: int, suffix: str) -> Path:
    """Where a shard of a split lies."""
    return folder / (f"{split}-{number:05}{suffix}" if number else f"{split}{suffix}")


def joined(shards: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What a manifest says of a split's shards: of one shard just its own."""
    if len(shards) == 1:
        return shards[0]
    digest = hashlib.sha256("".join(shard["sha256"] for shard in shards).encode()).hexdigest()
    return {"sha256": digest, "shards": list(shards)}


def shards_of(entry: dict[str, Any]) -> list[dict[str, Any]]:
    """The shards of a split, from its entry in a manifest."""
    return list(entry.get("shards") or [entry])


def code_sha256(folder: Path) -> str:
    """A hash of the modules in a folder: shards of a killed run count for the same code only."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))).hexdigest()


def processes_for(setting: int | None, shards: int) -> int:
    """How many processes work on so many shards: at most `setting`, or one for each core."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(setting or cores, shards))


def each_once(
    name: str,
    work: Callable[..., dict[str, Any]],
    tasks: Sequence[tuple[Any, ...]],
    notes: Path,
    processes: int,
    progress: Progress,
) -> list[dict[str, Any]]:
    """The results of `work(*task, progress)` for all tasks, in order.

    A result is noted in the folder `notes` when what the work wrote is on the disk: after a kill, another run does the
    rest.

    Args:
        work: a function of a module, whose results are for JSON.

    Raises:
        InputError: of the work.
        KilledError: a process was killed.
    """
    places = [notes / f"{name}.{number}.json" for number in range(len(tasks))]
    left = [number for number, place in enumerate(places) if not place.exists()]
    if processes_for(processes, len(left)) == 1:
        for number in left:
            write_json(places[number], work(*tasks[number], progress))
    else:
        _in_processes(work, [(places[number], *tasks[number]) for number in left], processes, progress)
    return [read_json(place) for place in places]


def _in_processes(
    work: Callable[..., dict[str, Any]], tasks: Iterable[tuple[Any, ...]], processes: int, progress: Progress
) -> None:
    context = get_context("spawn")  # no forkserver: its socket's path is too long for some temporary folders
    done = context.Value("q")
    reported = 0
    with ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(done,)) as pool:
        try:
            unfinished = {pool.submit(_noted, work, *task) for task in tasks}
            while unfinished:
                finished, unfinished = wait(unfinished, timeout=0.5, return_when=FIRST_EXCEPTION)
                for future in finished:
                    future.result()
                progress(done.value - reported)
                reported = done.value
        except BrokenProcessPool:
            raise KilledError(
                "a process that works on a shard was killed, perhaps for want of memory: start again, and it goes on"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)


def _begin(done: Any) -> None:
    """Prepare a process: one thread, since there is a process for each core."""
    global _done
    end_with_parent()
    os.environ["RAYON_NUM_THREADS"] = "1"  # the threads of `tokenizers`
    _done = done


def _noted(work: Callable[..., dict[str, Any]], place: Path, *task: Any) -> None:
    def progress(size: int) -> None:
        with _done.get_lock():
            _done.value += size

    write_json(place, work(*task, progress))


_done: Any = None
