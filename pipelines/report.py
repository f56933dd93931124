"""Stage `report`: all variants on one page, and one run of each in MLflow.

in:      data/metrics, data/onnx, data/models, data/timings, the manifests of data/corpus and data/tokens, params.yaml
out:     data/report (report.md, index.html, charts, samples), and runs in .mlflow or at MLFLOW_TRACKING_URI
command: python pipelines/report.py

It runs on every `dvc repro`, so that deleted pages and runs come back. Where nothing is new it must end at once: slow
imports happen only when there is work to do.
"""

from __future__ import annotations

import sys
from pathlib import Path

from recurlm.errors import exit_cleanly
from recurlm.report import fingerprint
from recurlm.report.sync_plan import SyncPlan
from recurlm.tracking.store import DamagedStoreError
from recurlm.tracking.sync import sync


def main() -> None:
    root = Path()
    inputs = fingerprint.inputs_hash(root)
    report = fingerprint.read(root)
    if report is None or report.inputs != inputs:
        from recurlm.report.build import build

        report = build(root, inputs)
        sys.stderr.write(f"report: wrote {fingerprint.FOLDER / 'index.html'}\n")

    try:
        lines = sync(root, plan=SyncPlan(**report.sync_plan))
    except DamagedStoreError as error:  # MLflow holds copies alone: nothing is missing, and the pipeline is through
        lines = [str(error)]
    for line in lines:
        sys.stderr.write(f"report: MLflow: {line}\n")


if __name__ == "__main__":
    exit_cleanly(main)
