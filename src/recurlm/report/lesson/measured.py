"""What the stages measured of each variant, as the lesson's blocks ask for it; what is missing is None."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recurlm import config
from recurlm.report.results import Numbers, Result, Results, gather
from recurlm.storage import read_json

NOT_YET = "not measured yet"


@dataclass(frozen=True)
class Variant:
    """One variant: the files of data/metrics, and what this machine timed of this very model."""

    result: Result
    perplexity: Numbers | None
    diagnostics: Numbers | None
    samples: Numbers | None
    speed: Numbers | None  # data/timings/diagnose-<variant>.json

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def lesson(self) -> Numbers:
        return (self.diagnostics or {}).get("lesson") or {}


@dataclass(frozen=True)
class Measured:
    metrics: Path
    results: Results
    variants: dict[str, Variant]

    @property
    def causal(self) -> list[Variant]:
        """Those that read from left to right, in the order of params.yaml."""
        return [variant for variant in self.variants.values() if variant.result.causal]

    def values(self, names: tuple[str, ...], value: Callable[[Variant], Any]) -> dict[str, Any] | None:
        """A number of each of these variants; None unless all of them have it."""
        found = {name: value(self.variants[name]) for name in names if name in self.variants}
        return found if len(found) == len(names) and None not in found.values() else None


def read(root: Path) -> Measured:
    """Gather what is there.

    Raises:
        InputError: a file is there and cannot be read.
    """
    results = gather(root, config.load(root / "params.yaml"))
    return Measured(
        root / "data/metrics", results, {one.name: _variant(root / "data", one) for one in results.variants}
    )


def _variant(data: Path, result: Result) -> Variant:
    perplexity, diagnostics, samples = (
        _read(data / "metrics" / part / f"{result.name}.json") for part in ("perplexity", "diagnostics", "samples")
    )
    speed = _read(data / "timings" / f"diagnose-{result.name}.json")
    # A measurement counts only for the model that it was made of.
    if speed and speed.get("model_sha256") != result.model.get("sha256"):
        speed = None
    return Variant(result, perplexity, diagnostics, samples, speed)


def _read(path: Path) -> Numbers | None:
    return dict(read_json(path)) if path.is_file() else None
