"""A shared view of the experiment for MLflow's UI, stored in a tag as its button "Share" does.

python -m recurlm.tracking.view ADDRESS prints where a server at that address shows it.

Its URL ends in `?viewStateShareKey=comparison`. It shows the runs of variants without those of pipelines, the best
first, with the columns and charts that matter. MLflow has no call for it: this is the tag that its button sets.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from mlflow import MlflowClient

from recurlm import config
from recurlm.errors import exit_cleanly
from recurlm.tracking.store import find

TAG = "mlflow.sharedViewState.comparison"
SECTION = "comparison"
LINES = ("train_loss", "validation_loss", "tokens_per_second", "learning_rate")
# Bars begin at zero, where 2.04 looks like 2.10: scores are the heights of points, whose axis begins at the lowest.
SCORES = ("validation_bits_per_byte", "test_bits_per_byte", "test_pseudo_bits_per_byte")
SPEED = "training_tokens_per_second"
METRICS = (*SCORES, "parameters", SPEED, "generation_tokens_per_second", "bundle_bytes")
COLUMNS = (*(f"metrics.`{name}`" for name in METRICS), "params.`hidden_size`", "attributes.`Models`")
BARS = (
    SPEED,
    "generation_tokens_per_second",
    "generation_tokens_per_second_int8",
    "bundle_bytes",
    "bundle_bytes_int8",
    "bundle_bytes_int4",
)


def lay_out(client: MlflowClient, experiment: str) -> None:
    """Set the tag, unless it holds the view already."""
    value = json.dumps(state(), separators=(",", ":"))
    if client.get_experiment(experiment).tags.get(TAG) != value:
        client.set_experiment_tag(experiment, TAG, value)


def state() -> dict[str, Any]:
    """The UI's state of the view; charts of all other metrics follow in a collapsed section."""
    raw = {"xAxisKey": "step", "useGlobalXaxisKey": False, "lineSmoothness": 0, "useGlobalLineSmoothing": False}
    speed = {"xaxis": {"key": SPEED, "type": "METRIC"}}
    heights = {name: speed | {"yaxis": {"key": name, "type": "METRIC"}, "runsCountToCompare": 100} for name in SCORES}
    charts = [_chart("LINE", name) | raw for name in LINES]
    charts += [_chart("SCATTER", name) | axes for name, axes in heights.items()]
    charts += [_chart("BAR", name) for name in BARS]
    return {
        "searchFilter": "tags.variant LIKE '%'",
        "orderByKey": "metrics.`validation_bits_per_byte`",
        "orderByAsc": True,
        "selectedColumns": COLUMNS,
        "compareRunCharts": charts,
        "compareRunSections": [_section(SECTION, "Comparison", True), _section("all", "Model metrics", False)],
        "isAccordionReordered": True,
    }


def _chart(kind: str, name: str) -> dict[str, Any]:
    shown = {"type": kind, "metricKey": name, "displayName": name, "uuid": f"{SECTION}-{name}"}
    return shown | {"metricSectionId": SECTION, "deleted": False, "isGenerated": True}


def _section(uuid: str, name: str, open_: bool) -> dict[str, Any]:
    return {"uuid": uuid, "name": name, "display": open_, "isReordered": True, "deleted": False, "isGenerated": False}


def addresses(root: Path, server: str) -> list[str]:
    """Where a server of the store shows the view: a line for the table, and one for the charts.

    Raises:
        InputError: the store is out of reach, or params.yaml does not fit.
    """
    name, place = config.load(root / "params.yaml").report.experiment, find(root)
    with place.locked(), place.connected(check=False) as client:
        experiment = client.get_experiment_by_name(name)
    if experiment is None:
        return [f"No result is logged in the experiment '{name}' yet: {server}"]
    runs = f"{server}/#/experiments/{experiment.experiment_id}/runs?workflowType=machine_learning"
    shown = "&viewStateShareKey=comparison"
    return [
        f"All variants in a table: {runs}{shown}",
        f"The same as charts:      {runs}&compareRunsMode=CHART{shown}",
    ]


if __name__ == "__main__":
    exit_cleanly(lambda: print("\n".join(addresses(Path(), sys.argv[1]))))
