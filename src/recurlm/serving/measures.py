"""What /metrics tells, in Prometheus' form."""

from __future__ import annotations

from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
ROWS = (1, 2, 4, 8, 16, 32, 64, 128)


@dataclass(frozen=True)
class ModelMeasures:
    """Those of one model."""

    running: Gauge
    waiting: Gauge
    calls: Histogram
    read: Counter
    generated: Counter
    first: Histogram


class Measures:
    """All that a server measures, in a registry of its own."""

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
        self._running = Gauge("recurlm_running_texts", "Texts being drawn.", model, registry=registry)
        self._waiting = Gauge("recurlm_waiting_texts", "Texts that wait to be drawn.", model, registry=registry)
        self._calls = Histogram(
            "recurlm_call_texts", "Texts drawn together in a step.", model, buckets=ROWS, registry=registry
        )
        self._read = Counter("recurlm_prompt_tokens", "Tokens of prompts.", model, registry=registry)
        self._generated = Counter("recurlm_generated_tokens", "Tokens drawn and given out.", model, registry=registry)
        self._first = Histogram(
            "recurlm_first_token_seconds",
            "Seconds from a request to its first tokens.",
            model,
            buckets=SECONDS,
            registry=registry,
        )

    def of(self, model: str) -> ModelMeasures:
        kinds = (self._running, self._waiting, self._calls, self._read, self._generated, self._first)
        return ModelMeasures(*(kind.labels(model) for kind in kinds))  # type: ignore[arg-type]
