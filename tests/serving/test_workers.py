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


def test_work_in_parts_waits_for_its_own_size_of_later_work_once() -> None:
    """Not once for each part; smaller work goes first between two of them."""
    taken: list[tuple[str, int]] = []
    turn = threading.Semaphore(0)

    def work(name: str, size: int) -> int:
        taken.append((name, size))
        turn.acquire()
        return size

    async def requests() -> None:
        worker = Worker("worker", queue=100, small=0)
        sent = []

        async def send(name: str, size: int, parts: int = 1) -> None:
            each = [lambda: work(name, size // parts)] * parts
            sent.append(asyncio.ensure_future(worker.run_parts(each, size, size)))
            await asyncio.sleep(0)

        await send("other", 20)
        while not taken:
            await asyncio.sleep(0.001)
        await send("parts", 100, parts=10)
        for _ in range(40):
            await send("other", 20)
            before = len(taken)
            turn.release()
            while len(taken) == before:
                await asyncio.sleep(0.001)
        turn.release(100)
        assert (await asyncio.gather(*sent))[1] == [10] * 10
        worker.close()

    asyncio.run(requests())
    end = max(place for place, (name, _) in enumerate(taken) if name == "parts")
    assert sum(size for name, size in taken[1:end] if name == "other") <= 100


def test_the_parts_of_who_has_gone_are_left_out() -> None:
    taken: list[int] = []
    turn = threading.Semaphore(0)

    def part(number: int) -> None:
        taken.append(number)
        turn.acquire()

    async def requests() -> None:
        worker = Worker("worker", queue=100, small=0)
        gone = asyncio.ensure_future(worker.run_parts([lambda: part(1), lambda: part(2)], 2, 2))
        while not taken:
            await asyncio.sleep(0.001)
        gone.cancel()
        await asyncio.sleep(0)
        turn.release()
        assert await worker.run(lambda: 3, 1) == 3
        worker.close()

    asyncio.run(requests())
    assert taken == [1]
