"""A model's thread: it runs the scheduler for all requests, and hands their new tokens to the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import Mapping

from recurlm.serving.errors import busy
from recurlm.serving.metrics import ModelMetrics
from recurlm.serving.scheduler import Scheduler, Sequence

log = logging.getLogger("uvicorn.error")

NewTokens = list[tuple[int, list[int], bool]]  # index of the sequence in its request, tokens, whether they are its last


class Job:
    """The sequences of one request, and a queue of their new tokens."""

    def __init__(self, sequences: list[Sequence]) -> None:
        self.sequences = sequences
        self.queue: asyncio.Queue[NewTokens | Exception] = asyncio.Queue()

    async def new_tokens(self) -> NewTokens:
        """Wait for the next tokens.

        Raises:
            RuntimeError: the model's call failed, which is a bug.
        """
        item = await self.queue.get()
        if isinstance(item, Exception):
            raise RuntimeError("generation failed") from item
        return item


class Engine:
    """Runs a scheduler with at most `max_batch` sequences, while at most `max_queue` wait; first come, first served."""

    def __init__(self, scheduler: Scheduler, max_batch: int, max_queue: int, metrics: ModelMetrics) -> None:
        self._scheduler = scheduler
        self._max_batch, self._max_queue = max_batch, max_queue
        self._metrics = metrics
        self._waiting: deque[tuple[Job, int]] = deque()
        self._running: dict[Sequence, tuple[Job, int]] = {}
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        metrics.running.set_function(lambda: len(self._running))
        metrics.waiting.set_function(lambda: len(self._waiting))

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Start the thread; tokens are delivered in `loop`."""
        self._loop = loop
        self._thread.start()

    def alive(self) -> bool:
        return self._thread.is_alive()

    def submit(self, sequences: list[Sequence]) -> Job:
        """Queue the sequences of a request.

        Raises:
            ApiError: too many wait already.
        """
        job = Job(sequences)
        with self._change:
            free = max(0, self._max_batch - len(self._running))
            if len(self._waiting) + len(sequences) > self._max_queue + free:
                raise busy(f"{len(self._waiting)} texts wait already, and at most {self._max_queue} may")
            self._waiting.extend((job, index) for index in range(len(sequences)))
            self._change.notify()
        return job

    def close(self) -> None:
        """Stop after the current call."""
        with self._change:
            self._closed = True
            self._change.notify()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while self._admit():
            try:
                new_tokens = self._scheduler.step()
            except Exception as error:
                log.exception("a call of generator.onnx failed")
                self._fail(error)
                continue
            self._metrics.batch_size.observe(len(self._running))
            self._metrics.generated_tokens.inc(sum(len(tokens) for _, tokens in new_tokens))
            deliveries: dict[Job, NewTokens] = {}
            for sequence, tokens in new_tokens:
                job, index = self._running[sequence]
                deliveries.setdefault(job, []).append((index, tokens, sequence.finished))
                if sequence.finished:
                    del self._running[sequence]
            self._loop.call_soon_threadsafe(_deliver, deliveries)

    def _admit(self) -> bool:
        """Wait for work, and admit waiting sequences while there is room; False once the engine is closed."""
        with self._change:
            while True:
                self._drop_cancelled()
                while self._waiting and len(self._running) < self._max_batch:
                    job, index = self._waiting.popleft()
                    self._running[job.sequences[index]] = (job, index)
                    self._scheduler.sequences.append(job.sequences[index])
                if self._closed:
                    return False
                if self._running:
                    return True
                self._change.wait()

    def _drop_cancelled(self) -> None:
        if any(job.sequences[index].cancelled for job, index in self._waiting):
            self._waiting = deque((job, index) for job, index in self._waiting if not job.sequences[index].cancelled)
        for sequence in [sequence for sequence in self._running if sequence.cancelled]:
            del self._running[sequence]
        self._scheduler.sequences = [sequence for sequence in self._scheduler.sequences if not sequence.cancelled]

    def _fail(self, error: Exception) -> None:
        failed = {job: error for job, _ in self._running.values()}
        for sequence in self._running:
            sequence.cancelled = True
        self._loop.call_soon_threadsafe(_deliver, failed)


def _deliver(deliveries: Mapping[Job, NewTokens | Exception]) -> None:
    for job, item in deliveries.items():
        job.queue.put_nowait(item)
