"""Promises to those who come beside clients that send half a request, or too many of them."""

from __future__ import annotations

import contextlib
import json
import logging
import socket

import pytest
from server_process import Server
from tiny_bundles import TinyBundles

from recurlm.serving import connections
from recurlm.serving.connections import LOG_LINES, LOG_SECONDS, LogLimit

pytestmark = pytest.mark.xdist_group("serving")

HEAD = b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
HALF_BODY = HEAD + b'Content-Length: 90000\r\n\r\n{"text": "'


def connect(server: Server, data: bytes) -> socket.socket:
    client = socket.create_connection(("127.0.0.1", server.port), timeout=20)
    client.sendall(data)
    return client


def answer(client: socket.socket) -> tuple[int, str]:
    """The status and the message of an error, after which the connection is closed."""
    data = b""
    while part := client.recv(65536):
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]["message"]


def test_half_open_connections_keep_nobody_out(bundles: TinyBundles) -> None:
    """Far more of them than the files that the server may open; each of them would once have waited for ever."""
    limits = ("--header-seconds", "3", "--body-seconds", "2")
    with Server("--model", f"lstm={bundles('lstm')}", *limits, open_files=256) as server:
        assert "leaves room for" in "".join(server.first_lines)
        with contextlib.ExitStack() as clients:
            for data in [HEAD, HALF_BODY, b"", b"nonsense\r\n\r\n"] * 120:
                with contextlib.suppress(ConnectionError):  # dropped meanwhile, to make room
                    clients.enter_context(connect(server, data))
            for _ in range(3):
                with connect(server, b"GET /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n") as other:
                    assert b"200 OK" in other.recv(65536)
        # Alone, each is told why it is closed.
        with connect(server, HEAD) as head, connect(server, HALF_BODY) as body, connect(server, b"") as silent:
            assert answer(body) == (408, "the request's body took longer than 2 s")
            assert answer(head) == (408, "the request's headers took longer than 3 s")
            with contextlib.suppress(ConnectionResetError):
                assert silent.recv(1) == b""
        assert server.get("/health").status_code == 200
        assert server.stop() == 0
        # 120 lines of nonsense came, and far more connections than could be accepted.
        assert len(server.rest_of_stderr().splitlines()) <= 2 * LOG_LINES


def test_a_half_sent_body_does_not_hold_up_the_end(bundles: TinyBundles) -> None:
    limits = ("--body-seconds", "3600", "--grace", "3600")
    with (
        Server("--model", f"lstm={bundles('lstm')}", *limits) as server,
        connect(server, HEAD + b"Expect: 100-continue\r\nContent-Length: 90000\r\n\r\n") as body,
    ):
        assert body.recv(65536).startswith(b"HTTP/1.1 100")  # the server reads it
        body.sendall(b"{")
        assert server.stop() == 0
        assert answer(body) == (503, "the server is stopping")


def kept_alive(server: Server) -> socket.socket:
    """A connection that has had an answer, and has sent half the headers of its next request."""
    client = connect(server, b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
    while not client.recv(65536).endswith(b"}"):
        pass
    client.sendall(HEAD)
    return client


def test_half_sent_headers_are_refused_at_first_and_on_a_connection_that_was_kept(bundles: TinyBundles) -> None:
    model = f"lstm={bundles('lstm')}"
    with Server("--model", model, "--header-seconds", "2") as server, kept_alive(server) as client:
        assert answer(client) == (408, "the request's headers took longer than 2 s")
    with (
        Server("--model", model, "--header-seconds", "3600") as server,
        connect(server, HEAD) as first,
        kept_alive(server) as kept,
    ):
        assert server.get("/health").status_code == 200  # what was sent before has arrived
        assert server.stop() == 0
        assert answer(first) == answer(kept) == (503, "the server is stopping")


def test_a_log_does_not_flood_and_says_what_it_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(connections.time, "monotonic", lambda: now)
    limit = LogLimit()

    def written() -> list[str]:
        records = [logging.makeLogRecord({"msg": "line %d", "args": (line,)}) for line in range(500)]
        return [record.getMessage() for record in records if limit.filter(record)]

    lines = [f"line {line}" for line in range(LOG_LINES)]
    assert written() == lines
    now += LOG_SECONDS
    assert written() == [f"line 0 ({500 - LOG_LINES} lines before this left out)", *lines[1:]]
