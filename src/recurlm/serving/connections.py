"""HTTP connections: how many there may be, how long a client may take, and how much of it is logged.

A connection waits for a request, or for the rest of one, until its deadline. Where there are too many, the one that has
waited longest makes room; so half-open connections, however many, keep nobody out.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import time
from pathlib import Path
from typing import Any, Literal

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from recurlm.serving.exceptions import ApiError
from recurlm.serving.settings import Limits

ACCEPTED_AT_ONCE = 16  # connections that the event loop accepts before it looks at those that it has
# File descriptors for connections that are being accepted and closed, and for what the program itself opens.
RESERVED_FILES = 8 * ACCEPTED_AT_ONCE + 32
STALLED_SECONDS = 60.0  # a client may read nothing for so long, while there is something for it to read
LOG_LINES, LOG_SECONDS = 10, 10.0


class Bounds:
    """The connections of a server, and how many there may be."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.most = most_connections(limits.max_connections)
        # Those that have sent no whole request yet: the one that has waited longest is first.
        self.waiting: dict[Connection, None] = {}

    def make_room(self, connections: int) -> bool:
        """Drop a waiting connection if there are too many; returns False where none waits."""
        if connections <= self.most:
            return True
        if not self.waiting:
            return False
        next(iter(self.waiting)).drop()
        return True


class Connection(H11Protocol):
    """A connection of a client, with deadlines for what it sends and reads."""

    def __init__(self, *arguments: Any, bounds: Bounds, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._bounds = bounds
        self._waits_for: Literal["headers", "body"] | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._stalled: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # With room for more, a client that does not read the last of its answer would be waited for without end.
        transport.set_write_buffer_limits(high=0)
        if self._bounds.make_room(len(self.connections)):
            self._update()
        else:
            self._refuse(503, f"{self._bounds.most} connections are open: try again later")

    def connection_lost(self, exc: Exception | None) -> None:
        self._wait_for(None)
        self.resume_writing()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        super().handle_events()
        self._update()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._update()

    def shutdown(self) -> None:
        """Finish the request that runs; one that has not arrived as a whole is refused."""
        if self._waits_for == "body" or (self._waits_for == "headers" and self.conn.trailing_data[0]):
            self._refuse(503, "the server is stopping")
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._watch(self.transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
        super().resume_writing()

    def _watch(self, unread: int) -> None:
        self._stalled = self.loop.call_later(STALLED_SECONDS, self._check_reading, unread)

    def _check_reading(self, unread: int) -> None:
        """Drop a client that has left as much unread as before; one that reads slowly may go on."""
        now = self.transport.get_write_buffer_size()
        if now < unread:
            self._watch(now)
        else:
            self.drop()

    def drop(self) -> None:
        """Close the connection at once."""
        self._wait_for(None)
        self.transport.abort()

    def _update(self) -> None:
        """Set the deadline for what the connection waits for now."""
        if self.transport.is_closing():
            self._wait_for(None)
        elif self.cycle is None or self.cycle.response_complete:
            self._wait_for("headers")
        else:
            self._wait_for("body" if self.cycle.more_body else None)

    def _wait_for(self, what: Literal["headers", "body"] | None) -> None:
        if what == self._waits_for:
            return
        self._waits_for = what
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None
        self._bounds.waiting.pop(self, None)
        if what is not None:
            limits = self._bounds.limits
            seconds = limits.header_seconds if what == "headers" else limits.body_seconds
            self._deadline = self.loop.call_later(seconds, self._expire, what, seconds)
            self._bounds.waiting[self] = None

    def _expire(self, what: str, seconds: int) -> None:
        if what == "headers" and not self.conn.trailing_data[0]:
            self._wait_for(None)
            self.transport.close()  # nothing has been asked
        else:
            self._refuse(408, f"the request's {what} took longer than {seconds} s")

    def _refuse(self, status: int, message: str) -> None:
        """Answer a request that is not read, unless its answer has begun, and close the connection."""
        self._wait_for(None)
        # IDLE: no request has arrived, or none since the last answer.
        if not self.transport.is_closing() and self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            body = ApiError(status, message).body().encode()
            head = f"HTTP/1.1 {status} \r\nconnection: close\r\ncontent-type: application/json\r\n"
            self.transport.write(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
        self.transport.close()


def most_connections(wanted: int) -> int:
    """As many connections as are wanted, or as the limit on open files leaves room for."""
    needed = wanted + RESERVED_FILES + len(list(Path("/dev/fd").iterdir()))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < needed:
        soft = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        return max(1, wanted - (needed - soft))
    return wanted


class LogLimit(logging.Filter):
    """Lets a logger write so many lines in so many seconds, and says how many it left out."""

    def __init__(self, lines: int = LOG_LINES, seconds: float = LOG_SECONDS) -> None:
        super().__init__()
        self._lines, self._seconds = lines, seconds
        self._begin, self._written, self._left_out = -seconds, 0, 0

    def filter(self, record: logging.LogRecord) -> bool:
        now = time.monotonic()
        if now - self._begin >= self._seconds:
            self._begin, self._written = now, 0
        if self._written == self._lines:
            self._left_out += 1
            return False
        self._written += 1
        if self._left_out:
            record.msg, record.args = f"{record.getMessage()} ({self._left_out} lines before this left out)", ()
            self._left_out = 0
        return True
