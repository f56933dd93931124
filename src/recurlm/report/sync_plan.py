"""Which runs and registered models MLflow should hold, by keys that the results alone determine: no ids, no times."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from recurlm.storage import sha256_of

if TYPE_CHECKING:  # stage `report` reads a `SyncPlan` on every `dvc repro`, and must not import more than that
    from recurlm.report.results import Result, Results


@dataclass(frozen=True)
class SyncPlan:
    """The runs and the registered versions of the complete results."""

    experiment: str  # in MLflow; also the name of the registered model that holds the best
    run_keys: dict[str, str]  # variant → key of its run
    parent_keys: dict[str, str]  # variant → key of the pipeline's run that is the parent of a new run
    model_versions: dict[str, list[str]]  # registered model → keys of its versions
    report_hash: str  # of the report that the pipeline's run shows
    stale: dict[str, str] = field(default_factory=dict)  # variant → why its results are left out
    dvc_experiment: str = ""  # the name of the `dvc exp run` that this is part of

    def for_dvc_experiment(self, name: str) -> SyncPlan:
        """The plan for results of `dvc exp run`, whose new runs have a parent run of their own."""
        if not name:
            return self
        key = _hash([name, *sorted(self.run_keys.values())])
        return replace(self, parent_keys=dict.fromkeys(self.run_keys, key), dvc_experiment=name)


def make_plan(results: Results, report_hash: str) -> SyncPlan:
    """What MLflow should hold of these results.

    Args:
        report_hash: hash of the report's files.
    """
    complete = [result for result in results.variants if result.complete]
    name = results.params.report.experiment
    versions = {f"{name}-{result.name}": bundle_keys(result) for result in complete}
    champion = best(complete)
    if champion:
        versions[name] = bundle_keys(champion)[:1]
    return SyncPlan(
        experiment=name,
        run_keys={result.name: result.key for result in complete},
        parent_keys={result.name: pipeline_key(results, result) for result in complete},
        model_versions=versions,
        report_hash=report_hash,
        stale={result.name: result.stale for result in results.variants if result.stale and result.made},
    )


def best(results: Iterable[Result]) -> Result | None:
    """The left-to-right model with the fewest bits per byte on the validation split; of equals, the first."""
    scored = [each for each in results if not each.objective.pseudo and validation_bits(each) is not None]
    return min(scored, key=lambda result: validation_bits(result) or 0.0, default=None)


def validation_bits(result: Result) -> float | None:
    """(Pseudo-)bits per byte on the validation split, by which the versions of one registered model compare."""
    value = ((result.metrics or {}).get("validation") or {}).get(result.objective.metric("bits_per_byte"))
    return None if value is None else float(value)


def bundle_keys(result: Result) -> list[str]:
    """The sha256 of each bundle.json, which holds those of all its files; in order of precision, fp32 first."""
    return [sha256_of(bundle.folder / "bundle.json") for bundle in result.bundles if bundle.description]


def pipeline_key(results: Results, result: Result) -> str:
    """A hash of what the runs of one pipeline share: the corpus, the tokenizer and the training settings."""
    texts = {split: facts.get("sha256") for split, facts in (results.corpus or {}).get("splits", {}).items()}
    return _hash([texts, (results.tokens or {}).get("tokenizer_sha256"), result.settings])


def _hash(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
