"""The metrics and timings of each variant for the lesson's blocks; what is missing is None."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recurlm import config
from recurlm.report.results import JsonObject, Result, Results, load_results
from recurlm.storage import read_json

NOT_YET = "not measured yet"


@dataclass(frozen=True)
class Variant:
    """One variant: its files of data/metrics, and this machine's timings of this very model."""

    result: Result
    perplexity: JsonObject | None
    diagnostics: JsonObject | None
    samples: JsonObject | None
    speed: JsonObject | None  # data/timings/length-<variant>.json

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def lesson(self) -> JsonObject:
        return (self.diagnostics or {}).get("lesson") or {}


@dataclass(frozen=True)
class Measured:
    metrics: Path
    results: Results
    remember: JsonObject | None  # benchmarks/results/remember.json
    directions: JsonObject | None  # benchmarks/results/bidirectional.json
    variants: dict[str, Variant]

    @property
    def left_to_right(self) -> list[Variant]:
        """The variants that are scored by perplexity, not pseudo-perplexity, in the order of params.yaml."""
        return [variant for variant in self.variants.values() if not variant.result.objective.pseudo]

    def values(self, names: tuple[str, ...], value: Callable[[Variant], Any]) -> dict[str, Any] | None:
        """Name → a value of each of these variants; None unless all of them have it."""
        values = {name: value(self.variants[name]) for name in names if name in self.variants}
        return values if len(values) == len(names) and None not in values.values() else None


def read(root: Path) -> Measured:
    """The metrics and timings under `root`.

    Raises:
        InputError: a file is there and cannot be read.
    """
    results = load_results(root, config.load(root / "params.yaml"))
    return Measured(
        root / "data/metrics",
        results,
        _read(root / "benchmarks/results/remember.json"),
        _read(root / "benchmarks/results/bidirectional.json"),
        {result.name: _variant(root / "data", result) for result in results.variants},
    )


def _variant(data: Path, result: Result) -> Variant:
    perplexity, diagnostics, samples = (
        _read(data / "metrics" / part / f"{result.name}.json") for part in ("perplexity", "diagnostics", "samples")
    )
    speed = _read(data / "timings" / f"length-{result.name}.json")
    # Timings of another model do not count.
    if speed and speed.get("model_sha256") != result.model.get("sha256"):
        speed = None
    return Variant(result, perplexity, diagnostics, samples, speed)


def _read(path: Path) -> JsonObject | None:
    return dict(read_json(path)) if path.is_file() else None
