"""A project with fabricated results and a real MLflow store: reported on, and read back."""

from __future__ import annotations

from pathlib import Path

from recurlm.report import fingerprint
from recurlm.report.build import build
from recurlm.report.fingerprint import MadeFrom
from recurlm.tracking import mirror, store
from recurlm.tracking.client import Run, connected


def report(root: Path) -> list[str]:
    """What the report stage does; the variants that it logged."""
    made = made_from(root)
    place = store.find(root)
    return mirror.log(root, place, made.runs) if place.missing(made.experiment, made.runs) else []


def made_from(root: Path) -> MadeFrom:
    return build(root, fingerprint.inputs_hash(root))


def runs(root: Path) -> dict[str, Run]:
    """The finished runs that are in the store, name → run; none is there twice, and none is unfinished."""
    with connected(store.find(root)) as client:
        experiment = client.get_experiment_by_name("recurlm")
        found = client.search_runs([experiment.experiment_id])
    assert all(run.info.status == "FINISHED" for run in found)
    names = [run.info.run_name for run in found]
    assert sorted(names) == sorted(set(names))
    return {run.info.run_name: run for run in found}
