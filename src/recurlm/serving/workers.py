"""Threads for work that is not batched, so that none of it is done on the event loop."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Callable
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
        return await (self._small if size <= self._largest_small else self._large).run(work, size)

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
        self._waiting: PriorityQueue[tuple[int, int, int, Callable[[], Any] | None, Future[Any]]] = PriorityQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._thread.start()

    async def run(self, work: Callable[[], Result], size: int) -> Result:
        if self._pending > self._queue:
            raise busy(f"{self._queue} requests wait already")
        self._pending += 1
        future: Future[Result] = Future()
        self._waiting.put((self._taken + size, next(self._arrivals), size, work, future))
        try:
            # Cancelled where the client has gone; then the thread passes it over.
            return await asyncio.wrap_future(future)
        finally:
            self._pending -= 1

    def close(self) -> None:
        self._waiting.put((-1, next(self._arrivals), 0, None, Future()))
        self._thread.join()

    def _work(self) -> None:
        while True:
            _, _, size, work, future = self._waiting.get()
            if work is None:
                return
            self._taken += size
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(work())
                except BaseException as error:
                    future.set_exception(error)
