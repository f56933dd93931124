"""Promises to clients that read their answers slowly, and about those that do not read them."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import uvicorn
from uvicorn.server import ServerState

from recurlm.serving import connections
from recurlm.serving.connections import Bounds, Connection
from recurlm.serving.settings import Limits

REQUEST = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"
STALLED = 0.5


async def answer(scope: Any, receive: Any, send: Any) -> None:
    """As many bytes as the path says."""
    size = int(scope["path"][1:])
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"%d" % size)]})
    await send({"type": "http.response.body", "body": b"x" * size})


@asynccontextmanager
async def serving(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[int, ServerState]]:
    """A port whose connections keep little in the system's buffers, and their state."""
    monkeypatch.setattr(connections, "STALLED_SECONDS", STALLED)
    config, state = uvicorn.Config(answer, lifespan="off", log_level="critical"), ServerState()
    config.load()
    bounds = Bounds(Limits(header_seconds=1))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        protocol = partial(Connection, config, state, {}, bounds=bounds)
        server = await asyncio.get_running_loop().create_server(protocol, sock=listening)
        yield listening.getsockname()[1], state
        server.close()


def connect(port: int, size: int) -> socket.socket:
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.settimeout(10)
    client.connect(("127.0.0.1", port))
    client.sendall(REQUEST % size)
    return client


@pytest.mark.parametrize("size", [50_000, 500_000])
def test_who_does_not_read_an_answer_is_dropped(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    """Of a large answer, and of one whose rest fits the transport's buffer, for which its closing would wait."""

    async def check() -> None:
        async with serving(monkeypatch) as (port, state):
            with await asyncio.to_thread(connect, port, size):
                begin = time.monotonic()
                while not state.connections:
                    await asyncio.sleep(0.01)
                while state.connections:
                    assert time.monotonic() < begin + 10
                    await asyncio.sleep(0.1)

    asyncio.run(check())


def test_who_reads_slowly_gets_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    size = 600_000

    def read(port: int) -> int:
        read = 0
        with connect(port, size) as client:
            while read < size:
                part = client.recv(20_000)
                if not part:
                    break
                read += len(part)
                time.sleep(len(part) / 200_000)
        return read

    async def check() -> None:
        async with serving(monkeypatch) as (port, _):
            begin = time.monotonic()
            assert await asyncio.to_thread(read, port) >= size
            assert time.monotonic() - begin > 2 * STALLED

    asyncio.run(check())
