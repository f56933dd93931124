"""The Prometheus metrics of /metrics."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

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
        self.registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.requests = Counter(
            "recurlm_requests", "Requests answered.", ["route", "method", "status"], registry=registry
        )
        self.seconds = Histogram(
            "recurlm_request_seconds",
            "Seconds from a request's first byte to its answer's last.",
            ["route"],
            buckets=SECONDS,
            registry=registry,
        )
        model = ["model"]
        self._running = Gauge("recurlm_running_texts", "Texts being generated.", model, registry=registry)
        self._waiting = Gauge("recurlm_waiting_texts", "Texts that wait for their turn.", model, registry=registry)
        self._batch_size = Histogram(
            "recurlm_call_texts", "Batch size of a step.", model, buckets=BATCH_SIZES, registry=registry
        )
        self._prompt_tokens = Counter("recurlm_prompt_tokens", "Tokens of prompts.", model, registry=registry)
        self._generated_tokens = Counter("recurlm_generated_tokens", "Tokens generated.", model, registry=registry)
        self._first_token_seconds = Histogram(
            "recurlm_first_token_seconds",
            "Seconds from a request to its first tokens.",
            model,
            buckets=SECONDS,
            registry=registry,
        )

    def of_model(self, model: str) -> ModelMetrics:
        metrics = (
            self._running,
            self._waiting,
            self._batch_size,
            self._prompt_tokens,
            self._generated_tokens,
            self._first_token_seconds,
        )
        return ModelMetrics(*(metric.labels(model) for metric in metrics))  # type: ignore[arg-type]
