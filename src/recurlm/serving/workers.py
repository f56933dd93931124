"""Threads for work that is not batched, so that none of it is done on the event loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import PriorityQueue
from typing import Any, TypeVar

from recurlm.serving.exceptions import busy

Result = TypeVar("Result")


class Worker:
    """Two threads: one for small requests, which wait for no larger one, and one for the others.

    A thread takes the smallest work first, but work of size s is passed over by at most s of later work in all: none
    waits for ever.
    """

    def __init__(self, name: str, queue: int, small: int) -> None:
        """`queue`: the most requests that may wait for each thread; `small`: the largest size of a small request."""
        self._small, self._large = _Lane(f"{name}-small", queue), _Lane(name, queue)
        self._largest_small = small

    async def run(self, work: Callable[[], Result], size: int) -> Result:
        """Do the work when its turn comes.

        Args:
            size: the request's, in the unit of `small`.

        Raises:
            ApiError: too many wait already.
        """
        return (await self.run_parts([work], size, size))[0]

    async def run_parts(self, parts: Sequence[Callable[[], Result]], size: int, request: int) -> list[Result]:
        """Do work in parts, between which smaller work may go first; the turn is that of the whole.

        Args:
            size: of all parts.
            request: the size of the request that they belong to, which chooses the thread.

        Raises:
            ApiError: too many wait already.
        """
        lane = self._small if request <= self._largest_small else self._large
        return await lane.run(parts, size)

    def close(self) -> None:
        """Stop after the work that runs."""
        self._small.close()
        self._large.close()


class _Lane:
    """One thread and the work that waits for it."""

    def __init__(self, name: str, queue: int) -> None:
        self._queue, self._pending = queue, 0
        self._arrivals = itertools.count()  # equal turns: first come, first served
        self._taken = (
            0  # sizes of the work that was taken up so far: a clock, to which each work adds its size for its turn
        )
        self._waiting: PriorityQueue[tuple[int, int, _Work | None]] = PriorityQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, parts: Sequence[Callable[[], Result]], size: int) -> list[Result]:
        if self._pending > self._queue:
            raise busy(f"{self._queue} requests wait already")
        self._pending += 1
        work = _Work(parts, size)
        self._waiting.put((self._taken + size, next(self._arrivals), work))
        try:
            # Cancelled where the client has gone; then the thread passes it over.
            return await asyncio.wrap_future(work.future)
        finally:
            self._pending -= 1

    def close(self) -> None:
        self._waiting.put((-1, next(self._arrivals), None))
        self._thread.join()

    def _work(self) -> None:
        while True:
            turn, arrival, work = self._waiting.get()
            if work is None:
                return
            self._taken += work.next_size()
            if work.do_next():
                self._waiting.put((turn, arrival, work))


class _Work:
    """Work in parts, what those that are done gave, and a future of all of it."""

    def __init__(self, parts: Sequence[Callable[[], Any]], size: int) -> None:
        self._parts, self._size = parts, size
        self._results: list[Any] = []
        self.future: Future[list[Any]] = Future()

    def next_size(self) -> int:
        """The size of the next part: of equal ones, whose sum is the work's."""
        done, parts = len(self._results), len(self._parts)
        return self._size * (done + 1) // parts - self._size * done // parts

    def do_next(self) -> bool:
        """Do the next part; returns whether there are others."""
        error = None
        if not self.future.cancelled():
            try:
                self._results.append(self._parts[len(self._results)]())
            except BaseException as raised:
                error = raised
            if error is None and len(self._results) < len(self._parts):
                return True
        # Not before: what runs could not be cancelled between two parts.
        if self.future.set_running_or_notify_cancel():
            if error is None:
                self.future.set_result(self._results)
            else:
                self.future.set_exception(error)
        return False
