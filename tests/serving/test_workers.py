"""Promises of the threads beside the event loop."""

from __future__ import annotations

import asyncio
import threading

from recurlm.serving.workers import Worker


def test_smaller_work_goes_first_but_the_largest_is_not_passed_over_for_ever() -> None:
    taken: list[int] = []
    turn = threading.Semaphore(0)

    def work(size: int) -> None:
        taken.append(size)
        turn.acquire()

    async def requests() -> None:
        worker = Worker("worker", queue=100, small=0)
        sent = []

        async def send(size: int) -> None:
            sent.append(asyncio.ensure_future(worker.run(lambda: work(size), size)))
            await asyncio.sleep(0)

        for size in (1, 50, 20, 10):
            await send(size)
        # While one of 10 is at work, the next one comes, without end.
        for _ in range(20):
            await send(10)
            before = len(taken)
            turn.release()
            while len(taken) == before:
                await asyncio.sleep(0.001)
        turn.release(100)
        await asyncio.gather(*sent)
        worker.close()

    asyncio.run(requests())
    assert taken[:2] == [1, 10]
    assert taken.index(20) < taken.index(50) < 15
