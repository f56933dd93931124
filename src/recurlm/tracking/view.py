"""A shared view of the experiment for MLflow's UI, stored in a tag as its button "Share" does.

Its URL ends in `?viewStateShareKey=comparison`. It shows the runs of variants without those of pipelines, the best
first, with the columns and charts that matter. MLflow has no call for it: this is the tag that its button sets.
"""

from __future__ import annotations

import json
from typing import Any

from mlflow import MlflowClient

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
