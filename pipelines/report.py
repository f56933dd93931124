"""Stage `report`: all variants on one page, and one run of each in MLflow.

in:      data/metrics, data/onnx, data/models, data/timings, the manifests of data/corpus and data/tokens, params.yaml
out:     data/report (report.md, index.html, pictures, samples), and runs in .mlflow or where MLFLOW_TRACKING_URI says
command: python pipelines/report.py

It runs on every `dvc repro`, so that pages and runs that somebody deleted come back. Where nothing is new it must end
at once: what is slow to import is imported only when there is work for it.
"""

from __future__ import annotations

import sys
from pathlib import Path

from recurlm.errors import exit_cleanly
from recurlm.report import fingerprint
from recurlm.report.sync_plan import SyncPlan
from recurlm.tracking.sync import sync


def main() -> None:
    root = Path()
    inputs = fingerprint.inputs_hash(root)
    made = fingerprint.read(root)
    if made is None or made.inputs != inputs:
        from recurlm.report.build import build

        made = build(root, inputs)
        sys.stderr.write(f"report: wrote {fingerprint.FOLDER / 'index.html'}\n")

    for line in sync(root, wanted=SyncPlan(**made.mirror)):
        sys.stderr.write(f"report: {line} in MLflow\n")


if __name__ == "__main__":
    exit_cleanly(main)
