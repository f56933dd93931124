"""A model's thread: it runs the scheduler for all requests, and hands their new tokens to the event loop."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Mapping

from recurlm.serving.exceptions import busy
from recurlm.serving.middleware import ModelMetrics
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
            Exception: the model's call failed: a bug, or a GraphError.
        """
        item = await self.queue.get()
        if isinstance(item, Exception):
            raise item
        return item


class Engine:
    """Runs a scheduler, while at most `max_queue` sequences wait, and at most as many of small requests beside them."""

    def __init__(self, scheduler: Scheduler, max_queue: int, metrics: ModelMetrics) -> None:
        self._scheduler = scheduler
        self._max_batch, self._max_queue = scheduler.max_batch, max_queue
        self._metrics = metrics
        self._arrived: list[tuple[Job, int]] = []
        self._running: dict[Sequence, tuple[Job, int]] = {}
        self._change = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)
        metrics.running.set_function(lambda: min(self._accepted(), self._max_batch))
        metrics.waiting.set_function(lambda: max(0, self._accepted() - self._max_batch))

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
            of_size = {sequence.share.small for sequence in sequences}
            accepted = sum(
                sequence.share.small in of_size
                for sequence in [*self._running, *(job.sequences[index] for job, index in self._arrived)]
            )
            if accepted + len(sequences) > self._max_batch + self._max_queue:
                waiting = max(0, accepted - self._max_batch)
                raise busy(f"{waiting} texts wait already, and at most {self._max_queue} may")
            self._arrived.extend((job, index) for index in range(len(sequences)))
            self._change.notify()
        return job

    def _accepted(self) -> int:
        return len(self._arrived) + len(self._running)

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
            self._metrics.batch_size.observe(len(self._scheduler.batch))
            self._metrics.generated_tokens.inc(sum(len(tokens) for _, tokens in new_tokens))
            deliveries: dict[Job, NewTokens] = {}
            for sequence, tokens in new_tokens:
                job, index = self._running[sequence]
                deliveries.setdefault(job, []).append((index, tokens, sequence.finished))
                if sequence.finished:
                    del self._running[sequence]
            self._loop.call_soon_threadsafe(_deliver, deliveries)

    def _admit(self) -> bool:
        """Wait for work, and take what has arrived; False once the engine is closed."""
        with self._change:
            while True:
                self._drop_cancelled()
                for job, index in self._arrived:
                    self._running[job.sequences[index]] = (job, index)
                    self._scheduler.sequences.append(job.sequences[index])
                self._arrived.clear()
                if self._closed:
                    return False
                if self._running:
                    return True
                self._change.wait()

    def _drop_cancelled(self) -> None:
        self._arrived = [(job, index) for job, index in self._arrived if not job.sequences[index].cancelled]
        for sequence in [sequence for sequence in self._running if sequence.cancelled]:
            del self._running[sequence]
        self._scheduler.sequences = [sequence for sequence in self._scheduler.sequences if not sequence.cancelled]

    def _fail(self, error: Exception) -> None:
        """Fail the requests that had a part in the call; the others go on."""
        failed = {self._running[sequence][0]: error for sequence in self._scheduler.batch}
        for job in failed:
            for sequence in job.sequences:
                sequence.cancelled = True
        self._loop.call_soon_threadsafe(_deliver, failed)


def _deliver(deliveries: Mapping[Job, NewTokens | Exception]) -> None:
    for job, item in deliveries.items():
        job.queue.put_nowait(item)
