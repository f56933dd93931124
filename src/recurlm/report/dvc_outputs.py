"""The files for DVC: long-format CSV for `dvc plots`, and the headline numbers of the diagnostics."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from recurlm.report.charts import learning
from recurlm.report.frames import Row, read_frame
from recurlm.report.results import JsonObject, Result, Results
from recurlm.report.sections.memory import cut_rows, gradient_rows
from recurlm.storage import to_json

CURVES = "curves.csv"
GRADIENTS = "gradient_flow.csv"
CONTEXT = "effective_context.csv"
SUMMARY = "summary.json"


def write(folder: Path, results: Results) -> None:
    """Write all of them into the report's folder."""
    curves = {"step": "step", "tokens": "tokens", "train_loss": "train_loss", "validation_loss": "loss"}
    _write_csv(folder / CURVES, curves, learning.rows(results))
    gradients = {"moment": "moment", "k": "k", "state_norm": "state", "input_norm": "input"}
    _write_csv(folder / GRADIENTS, gradients, read_frame(results, "diagnostics", gradient_rows).rows)
    context = {name: name for name in ("k", "increase", "low", "high")}
    _write_csv(folder / CONTEXT, context, cut_rows(results).rows)
    (folder / SUMMARY).write_text(to_json(summary(results)), encoding="utf-8")


def summary(results: Results) -> dict[str, Any]:
    """Variant → the headline numbers of its diagnostics; no timings, which differ between machines."""
    numbers: dict[str, dict[str, Any]] = {result.name: {} for result in results.variants}
    for part, parse in (("perplexity", _perplexities), ("diagnostics", _diagnostics), ("samples", _samples)):
        for row in read_frame(results, part, parse).rows:
            named = {key: value for key, value in row.items() if key not in {"variant", "objective"}}
            numbers[row["variant"]] |= {key: value for key, value in named.items() if value is not None}
    return numbers


def _perplexities(result: Result, perplexity: JsonObject) -> Iterable[Row]:
    for key in ("cold_windows", "neural_cache", "dynamic_evaluation"):
        if scores := perplexity.get(key):
            metric = result.objective.metric
            yield {metric(f"perplexity_{key}"): scores[metric("perplexity_per_token")]}


def _diagnostics(_: Result, diagnostics: JsonObject) -> Iterable[Row]:
    lesson = diagnostics["lesson"]
    yield {
        "effective_context_tokens": lesson["effective_context_tokens"],
        "gradient_vanished_at": lesson["gradient_vanished_at_after_training"],
    }
    for run in (diagnostics["overfitting"]["short_runs"] or {}).get("runs", ()):
        yield {f"gap_{'with' if run['dropout'] else 'without'}_dropout": run["gap"]}


def _samples(_: Result, samples: JsonObject) -> Iterable[Row]:
    for row in samples["temperatures"]:
        if row["temperature"] == 1:
            yield {"real_word_fraction": row["real_word_fraction"]}


def _write_csv(path: Path, columns: dict[str, str], rows: Iterable[Row]) -> None:
    """Write variant, objective and these columns, head → key of a row."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("variant", "objective", *columns))
        writer.writerows([row[key] for key in ("variant", "objective", *columns.values())] for row in rows)
