"""The files for DVC: long-format CSV for `dvc plots`, and the headline numbers of the diagnostics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from recurlm.report.metrics import ADAPTIVE, Metrics, pivoted
from recurlm.report.results import Results
from recurlm.storage import to_json

CURVES = "curves.csv"
GRADIENTS = "gradient_flow.csv"
CONTEXT = "effective_context.csv"
SUMMARY = "summary.json"
HEAD = ["variant", "objective"]


def write(folder: Path, results: Results, metrics: Metrics) -> None:
    """Write all of them into the report's folder."""
    _write_csv(folder / CURVES, _curves(results))
    moments = metrics.rows(("before training", "after training"), ("state_mean", "input_mean"))
    names = {"protocol": "moment", "at": "k", "state_mean": "state_norm", "input_mean": "input_norm"}
    norms = pivoted(moments, [*HEAD, "protocol", "at"]).reindex(columns=["state_mean", "input_mean"])
    _write_csv(folder / GRADIENTS, norms.reset_index().rename(columns=names).astype({"k": int}))
    cut = metrics.rows("cut", "increase").rename(columns={"at": "k", "value": "increase"}).astype({"k": int})
    _write_csv(folder / CONTEXT, cut[[*HEAD, "k", "increase", "low", "high"]])
    (folder / SUMMARY).write_text(to_json(summary(results, metrics)), encoding="utf-8")


def _curves(results: Results) -> pd.DataFrame:
    """The rows of the logs that have a validation loss; of a model without a log, the evaluations."""
    rows = [
        (result.name, result.objective.name, point.step, point.tokens, point.train_loss, point.validation_loss)
        for result in results.variants
        for point in (result.log or result.curve)
        if point.validation_loss is not None
    ]
    return pd.DataFrame(rows, columns=[*HEAD, "step", "tokens", "train_loss", "validation_loss"])


def summary(results: Results, metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Variant → the headline numbers of its diagnostics; no timings, which differ between machines."""
    numbers: dict[str, dict[str, Any]] = {}
    for result in results.variants:
        metric, name = result.objective.metric, result.name
        values = {
            metric(f"perplexity_{protocol}"): metrics.value(name, metric("perplexity_per_token"), protocol)
            for protocol in ("cold_windows", *ADAPTIVE)
        }
        for key in ("effective_context_tokens", "gradient_vanished_at_after_training"):
            found = metrics.value(name, key, "lesson")
            values[key.removesuffix("_after_training")] = None if found is None else int(found)
        runs = metrics.table[metrics.table["protocol"].str.startswith("dropout ") & (metrics.table["metric"] == "gap")]
        for row in runs[runs["variant"] == name].itertuples():
            values[f"gap_{'without' if row.protocol == 'dropout 0' else 'with'}_dropout"] = row.value
        for row in metrics.rows("temperature", "real_word_fraction", variant=name, at=1.0).itertuples():
            values["real_word_fraction"] = row.value
        numbers[name] = {key: value for key, value in values.items() if value is not None}
    return numbers


def _write_csv(path: Path, frame: pd.DataFrame) -> None:
    frame.to_csv(path, index=False, lineterminator="\n")
