"""Bring MLflow up to date with data/; idempotent.

What is logged stays as it is, what is missing is logged, and nothing is logged twice. With nothing to do it ends in
milliseconds: MLflow is imported only when there is work to do.
"""

from __future__ import annotations

import os
from pathlib import Path

from recurlm.report import fingerprint
from recurlm.report.sync_plan import SyncPlan
from recurlm.tracking import store
from recurlm.tracking.store_contents import read_store


def sync(root: Path, uri: str | None = None, plan: SyncPlan | None = None) -> list[str]:
    """Log every complete result under `root` that the store does not have.

    Args:
        uri: of the store; None: the one that MLFLOW_TRACKING_URI names, else SQLite in the checkout.
        plan: what the store should hold; None: computed from the results.

    Returns:
        One line per run and registered model that changed, and per variant whose results are stale.

    Raises:
        InputError: the store is out of reach, or refuses; or a bundle is corrupted, or not verified.
    """
    plan = (plan or _plan(root)).for_dvc_experiment(os.environ.get("DVC_EXP_NAME", ""))
    stale = [f"left {name} out, whose results are stale: {why}" for name, why in plan.stale.items()]
    target = store.find(root, uri)
    if read_store(target, plan).satisfies(plan):
        return stale
    from recurlm.tracking.mirror import log

    return log(root, target, plan) + stale


def _plan(root: Path) -> SyncPlan:
    from recurlm import config
    from recurlm.report.results import load_results
    from recurlm.report.sync_plan import make_plan

    report = fingerprint.read(root)
    report_hash = fingerprint.content_hash(report.outputs) if report else ""
    return make_plan(load_results(root, config.load(root / "params.yaml")), report_hash)
