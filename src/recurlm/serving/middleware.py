"""ASGI middleware: the API key, the size limit of bodies, and request metrics; the Prometheus metrics of /metrics."""

from __future__ import annotations

import hmac
import time
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from recurlm.serving.exceptions import ApiError

PUBLIC_PATHS = {"/health"}
NO_ROUTE = "none"  # the label of all unknown paths, so that requests cannot create labels
METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}
SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
BATCH_SIZES = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class ModelMetrics:
    """The metrics of one model."""

    running: Gauge
    waiting: Gauge
    batch_size: Histogram
    prompt_tokens: Counter
    generated_tokens: Counter
    first_token_seconds: Histogram


class Metrics:
    """All metrics of a server, in a registry of their own."""

    def __init__(self) -> None:
        registry = self.registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        route, of_request = ["route"], ["route", "method", "status"]
        took = "Seconds from a request's first byte to its answer's last."
        first = "Seconds from a request to its first tokens."
        self.requests = Counter("recurlm_requests", "Requests answered.", of_request, registry=registry)
        self.seconds = Histogram("recurlm_request_seconds", took, route, buckets=SECONDS, registry=registry)
        model = ["model"]
        self._of_model = ModelMetrics(
            Gauge("recurlm_running_texts", "Texts being generated.", model, registry=registry),
            Gauge("recurlm_waiting_texts", "Texts that wait for their turn.", model, registry=registry),
            Histogram("recurlm_call_texts", "Batch size of a step.", model, buckets=BATCH_SIZES, registry=registry),
            Counter("recurlm_prompt_tokens", "Tokens of prompts.", model, registry=registry),
            Counter("recurlm_generated_tokens", "Tokens generated.", model, registry=registry),
            Histogram("recurlm_first_token_seconds", first, model, buckets=SECONDS, registry=registry),
        )

    def of_model(self, model: str) -> ModelMetrics:
        return ModelMetrics(**{name: metric.labels(model) for name, metric in vars(self._of_model).items()})


class RequestMetrics:
    """Counts requests and observes their duration."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        status, start = 0, time.perf_counter()

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, send_and_note)
        finally:
            route = getattr(scope.get("route"), "path", NO_ROUTE)
            method = scope["method"] if scope["method"] in METHODS else "other"
            self.metrics.requests.labels(route, method, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)


class BodyLimit:
    """Refuses bodies that are too large: by their Content-Length, or else once too many bytes have arrived."""

    def __init__(self, app: ASGIApp, max_bytes: int) -> None:
        self.app, self.max_bytes = app, max_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        content_length = Headers(scope=scope).get("content-length", "0")
        if content_length.isdecimal() and int(content_length) > self.max_bytes:
            return await self._error().response()(scope, receive, send)
        received = 0

        async def limited_receive() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > self.max_bytes:
                # FastAPI turns any other exception while it reads a body into a 400.
                raise HTTPException(413, self._error().message)
            return message

        await self.app(scope, limited_receive, send)

    def _error(self) -> ApiError:
        return ApiError(413, f"the body is too large: at most {self.max_bytes} bytes")


class ApiKey:
    """Refuses requests without the API key, before their bodies are read."""

    def __init__(self, app: ASGIApp, key: str) -> None:
        self.app, self.key = app, key.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in PUBLIC_PATHS:
            return await self.app(scope, receive, send)
        scheme, _, given = Headers(scope=scope).get("authorization", "").partition(" ")
        if scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("latin-1"), self.key):
            return await self.app(scope, receive, send)
        message = "incorrect API key" if given else "no API key: send it as Authorization: Bearer KEY"
        await ApiError(401, message, code="invalid_api_key").response()(scope, receive, send)
