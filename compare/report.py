"""Stage report of the comparison: statistics, the table, three pictures, the page, and MLflow.

Inputs:  data/compare/<name>/{tuned,models,scores,tokens}
Outputs: data/compare/<name>/results.json, table.md, quality.png, seconds.png, state.png; data/compare/index.html
         data/timings/compare-<name>.json, measured once for these models
Command: python compare/report.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from recurlm.compare import page, results, settings, speed
from recurlm.compare.mirror import log_trials
from recurlm.errors import exit_cleanly
from recurlm.storage import read_json, write_json
from recurlm.tracking.store import DamagedStoreError


def main() -> None:
    compare, params = settings.project()
    plans = [settings.read_plan(compare, name) for name in compare.variants]
    speeds = speed.speeds(compare, plans, params.export)
    collected = results.collect(compare, speeds, read_json(compare.folder / "tokens/manifest.json"))
    write_json(compare.folder / "results.json", collected)
    page.write(collected, compare.folder, compare.folder.parent / "index.html")
    try:
        lines = log_trials(Path(), compare, f"{params.report.experiment}-compare", collected)
    except DamagedStoreError as error:  # MLflow holds copies alone, and the table is there
        lines = [str(error)]
    for line in lines:
        sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    exit_cleanly(main)
