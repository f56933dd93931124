"""What every request meets before any route: the counters, the API key, the limit of its size."""

from __future__ import annotations

import hmac
import time

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recurlm.serving.errors import ApiError
from recurlm.serving.measures import Measures

OPEN = {"/health"}  # to everybody
UNKNOWN = "none"  # the route of an address that no route has: whoever asks cannot make up new labels
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Counted:
    """Counts requests, and how long they take."""

    def __init__(self, app: ASGIApp, measures: Measures) -> None:
        self.app, self.measures = app, measures

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, begun = 0, time.perf_counter()

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, watch)
        finally:
            route = getattr(scope.get("route"), "path", UNKNOWN)
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.measures.requests.labels(route, method, status).inc()
            self.measures.seconds.labels(route).observe(time.perf_counter() - begun)


class Limited:
    """Refuses bodies that are too large, at their Content-Length, or else once so much of them has come."""

    def __init__(self, app: ASGIApp, most: int) -> None:
        self.app, self.most = app, most

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        told = Headers(scope=scope).get("content-length", "0")
        if told.isdecimal() and int(told) > self.most:
            return await self._error().response()(scope, receive, send)
        came = 0

        async def count() -> Message:
            nonlocal came
            message = await receive()
            came += len(message.get("body", b""))
            if came > self.most:
                # FastAPI makes of anything else that goes wrong while it reads a body a 400.
                raise HTTPException(413, self._error().message)
            return message

        await self.app(scope, count, send)

    def _error(self) -> ApiError:
        return ApiError(413, f"the body is too large: at most {self.most} bytes")


class Keyed:
    """Refuses requests without the API key, before their bodies are read."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in OPEN:
            return await self.app(scope, receive, send)
        kind, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self.key):
            return await self.app(scope, receive, send)
        message = "incorrect API key" if given else "no API key: send it as Authorization: Bearer KEY"
        await ApiError(401, message, code="invalid_api_key").response()(scope, receive, send)
