"""Bring MLflow up to date with data/: what any stage and any person may call, again and again.

What is there stays as it is, what is missing is logged, and nothing is logged twice. With nothing to do it ends in
milliseconds: MLflow is imported only when there is work for it.
"""

from __future__ import annotations

import os
from pathlib import Path

from recurlm.report import fingerprint
from recurlm.report.sync_plan import SyncPlan
from recurlm.tracking import store
from recurlm.tracking.store_contents import present


def sync(root: Path, uri: str | None = None, wanted: SyncPlan | None = None) -> list[str]:
    """Log every complete result under `root` that the store does not have.

    Args:
        uri: of the store; None: the one that MLFLOW_TRACKING_URI names, else SQLite in the checkout.
        wanted: where it is known already, what the store should hold.

    Returns:
        A line on each thing that was done.

    Raises:
        InputError: the store is out of reach, or refuses; or a bundle is corrupted, or not proven.
    """
    wanted = (wanted or _wanted(root)).of_experiment(os.environ.get("DVC_EXP_NAME", ""))
    place = store.find(root, uri)
    if present(place, wanted).holds(wanted):
        return []
    from recurlm.tracking.mirror import log

    return log(root, place, wanted)


def _wanted(root: Path) -> SyncPlan:
    from recurlm import config
    from recurlm.report.results import gather
    from recurlm.report.sync_plan import wanted

    made = fingerprint.read(root)
    report = fingerprint.content_hash(made.outputs) if made else ""
    return wanted(gather(root, config.load(root / "params.yaml")), report)
