"""What the mirror of the results should hold, by keys that the results alone decide: no store's ids, no times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from recurlm.storage import sha256_of

if TYPE_CHECKING:  # the stage `report` looks at a `Wanted` on every `dvc repro`, and must not pay for more than that
    from recurlm.report.results import Result, Results


@dataclass(frozen=True)
class Wanted:
    """The runs and the registered versions of the complete results."""

    experiment: str  # in MLflow; also the name of the registered model that holds the best
    runs: dict[str, str]  # variant → key of its run
    parents: dict[str, str]  # variant → key of the pipeline's run that a new run of it lies under
    versions: dict[str, list[str]]  # registered model → keys of its versions
    report: str  # hash of the report that the pipeline's run shows
    dvc_experiment: str = ""  # the name of the `dvc exp run` that this is part of

    def of_experiment(self, name: str) -> Wanted:
        """The same for results of `dvc exp run`: its new runs lie under one of its own."""
        if not name:
            return self
        key = _hash([name, *sorted(self.runs.values())])
        return replace(self, parents=dict.fromkeys(self.runs, key), dvc_experiment=name)


def wanted(results: Results, report: str) -> Wanted:
    """What the mirror of these results should hold.

    Args:
        report: hash of the report's files.
    """
    complete = [result for result in results.variants if result.complete]
    name = results.params.report.experiment
    versions = {f"{name}-{result.name}": bundle_keys(result) for result in complete}
    champion = best(complete)
    if champion:
        versions[name] = bundle_keys(champion)[:1]
    return Wanted(
        experiment=name,
        runs={result.name: result.key for result in complete},
        parents={result.name: pipeline_key(results, result) for result in complete},
        versions=versions,
        report=report,
    )


def best(results: Iterable[Result]) -> Result | None:
    """The causal model of the fewest bits per byte on the validation split; of two as good, the first."""
    scored = [result for result in results if result.causal and validation_bits(result) is not None]
    return min(scored, key=lambda result: validation_bits(result) or 0.0, default=None)


def validation_bits(result: Result) -> float | None:
    """What versions are compared by: a cloze model's are pseudo-bits, and compare with its like only."""
    name = "bits_per_byte" if result.causal else "pseudo_bits_per_byte"
    value = ((result.metrics or {}).get("validation") or {}).get(name)
    return None if value is None else float(value)


def bundle_keys(result: Result) -> list[str]:
    """The sha256 of each bundle.json, which holds those of all files; the most exact first."""
    return [sha256_of(one.folder / "bundle.json") for one in result.shipped if one.bundle]


def pipeline_key(results: Results, result: Result) -> str:
    """What runs of one pipeline share: the text, its tokens, and the recipe that the models were trained by."""
    texts = {split: facts.get("sha256") for split, facts in (results.corpus or {}).get("splits", {}).items()}
    return _hash([texts, (results.tokens or {}).get("tokenizer_sha256"), result.settings])


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
