"""Stage track: a run for each result in MLflow, and a registered version for each verified bundle.

Inputs:  data/metrics/, data/onnx/, data/models/, data/report/, data/timings/, dvc.lock, params.yaml
Outputs: data/tracked.json (what MLflow should hold, by keys that the results alone determine),
         runs in .mlflow/ or at MLFLOW_TRACKING_URI; recurlm sync fills a store that was deleted, or another one
Command: python pipelines/track.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from recurlm.errors import exit_cleanly
from recurlm.storage import write_json
from recurlm.tracking.store import DamagedStoreError
from recurlm.tracking.sync import Plan, sync


def main() -> None:
    root = Path()
    try:
        lines = sync(root)
    except DamagedStoreError as error:  # MLflow holds copies alone: nothing is missing, and the pipeline is through
        lines = [str(error)]
    for line in lines:
        sys.stderr.write(f"track: {line}\n")
    write_json(root / "data/tracked.json", Plan.of(root).as_json())


if __name__ == "__main__":
    exit_cleanly(main)
