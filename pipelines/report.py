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

from recurlm.errors import InputError, exit_cleanly
from recurlm.report import fingerprint
from recurlm.report.sync_plan import SyncPlan
from recurlm.storage import read_json
from recurlm.tracking.store import DamagedStoreError
from recurlm.tracking.sync import sync


def main() -> None:
    root = Path()
    check_init_from(root)
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


def check_init_from(root: Path) -> None:
    """Notice another model in the folder of train.init_from: DVC does not watch it, and this stage always runs.

    Raises:
        InputError: it is not the one that the tokens and the trained models go on from.
    """
    locked = fingerprint.locked_stages(root).get("tokenize", {}).get("params", {}).get("params.yaml", {})
    folder, manifest = locked.get("train.init_from"), root / "data/tokens/manifest.json"
    if folder is None or not manifest.is_file() or not (root / folder / "model.json").is_file():
        return
    earlier = read_json(manifest).get("init_from") or {}
    if read_json(root / folder / "model.json")["sha256"] != earlier.get("model_sha256"):
        raise InputError(f"train.init_from: another model lies in {folder} by now: dvc repro --force tokenize")


if __name__ == "__main__":
    exit_cleanly(main)
