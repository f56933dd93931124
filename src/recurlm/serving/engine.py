"""A model's thread: it draws for all requests at once, and hands their tokens to the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Mapping, Sequence

from recurlm.serving.batch import Batch, Row
from recurlm.serving.errors import busy
from recurlm.serving.measures import ModelMeasures

log = logging.getLogger("uvicorn.error")

Drawn = list[tuple[int, list[int], bool]]  # row of the request, new tokens, whether they are its last


class Job:
    """The rows of one request, and what has been drawn for them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self.rows = rows
        self.inbox: asyncio.Queue[Drawn | Exception] = asyncio.Queue()

    async def drawn(self) -> Drawn:
        """Wait for the next tokens.

        Raises:
            RuntimeError: the model's call failed, which is a bug.
        """
        item = await self.inbox.get()
        if isinstance(item, Exception):
            raise RuntimeError("drawing failed") from item
        return item


class Engine:
    """Draws with one generator: at most `rows` texts at once, while at most `queue` wait, first come, first served."""

    def __init__(self, batch: Batch, rows: int, queue: int, measures: ModelMeasures) -> None:
        self._batch = batch
        self._rows, self._queue = rows, queue
        self._measures = measures
        self._waiting: deque[tuple[Job, int]] = deque()
        self._running: dict[Row, tuple[Job, int]] = {}
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        measures.running.set_function(lambda: len(self._running))
        measures.waiting.set_function(lambda: len(self._waiting))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to draw; tokens are delivered in `loop`."""
        self._loop = loop
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, rows: Sequence[Row]) -> Job:
        """Let rows wait for their turn.

        Raises:
            ApiError: too many wait already.
        """
        job = Job(rows)
        with self._change:
            free = max(0, self._rows - len(self._running))
            if len(self._waiting) + len(rows) > self._queue + free:
                raise busy(f"{len(self._waiting)} texts wait already, and at most {self._queue} may")
            self._waiting.extend((job, place) for place in range(len(rows)))
            self._change.notify()
        return job

    def close(self) -> None:
        """Stop after the call that runs."""
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while self._admit():
            try:
                drawn = self._batch.step()
            except Exception as error:
                log.exception("a call of generator.onnx failed")
                self._fail(error)
                continue
            self._measures.calls.observe(len(self._running))
            self._measures.generated.inc(sum(len(tokens) for _, tokens in drawn))
            deliveries: dict[Job, Drawn] = {}
            for row, tokens in drawn:
                job, place = self._running[row]
                deliveries.setdefault(job, []).append((place, tokens, row.ended))
                if row.ended:
                    del self._running[row]
            self._loop.call_soon_threadsafe(_deliver, deliveries)

    def _admit(self) -> bool:
        """Wait for work, and take in what there is room for; False at the end."""
        with self._change:
            while True:
                self._drop_cancelled()
                while self._waiting and len(self._running) < self._rows:
                    job, place = self._waiting.popleft()
                    self._running[job.rows[place]] = (job, place)
                    self._batch.rows.append(job.rows[place])
                if self._closed:
                    return False
                if self._running:
                    return True
                self._change.wait()

    def _drop_cancelled(self) -> None:
        if any(job.rows[place].cancelled for job, place in self._waiting):
            self._waiting = deque(item for item in self._waiting if not item[0].rows[item[1]].cancelled)
        for row in [row for row in self._running if row.cancelled]:
            del self._running[row]
        self._batch.rows = [row for row in self._batch.rows if not row.cancelled]

    def _fail(self, error: Exception) -> None:
        failed = {job: error for job, _ in self._running.values()}
        for row in self._running:
            row.cancelled = True
        self._loop.call_soon_threadsafe(_deliver, failed)


def _deliver(deliveries: Mapping[Job, Drawn | Exception]) -> None:
    for job, item in deliveries.items():
        job.inbox.put_nowait(item)
