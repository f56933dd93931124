"""What `dvc plots` draws and `dvc metrics` compares: long CSV files, and the few numbers that tell the story."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from recurlm.report.found import Row, gather
from recurlm.report.results import Numbers, Result, Results
from recurlm.report.sections.memory import cut_rows, gradient_rows
from recurlm.storage import to_json

CURVES = "curves.csv"
GRADIENTS = "gradient_flow.csv"
CONTEXT = "effective_context.csv"
SUMMARY = "summary.json"


def write(folder: Path, results: Results) -> None:
    """All of them, into the report's folder."""
    protocol = {True: "left to right", False: "cloze"}
    curves = ("variant", "protocol", "step", "tokens", "train_loss", "validation_loss")
    _csv(
        folder / CURVES,
        curves,
        (
            (result.name, protocol[result.causal], point.step, point.tokens, point.train_loss, point.validation_loss)
            for result in results.variants
            for point in result.curve
            if point.validation_loss is not None
        ),
    )
    flow = gather(results, "diagnostics", gradient_rows)
    heads = ("variant", "protocol", "moment", "k", "state_norm", "input_norm")
    _csv(
        folder / GRADIENTS,
        heads,
        (
            (row["variant"], protocol[row["causal"]], row["moment"], row["k"], row["state"], row["input"])
            for row in flow.rows
        ),
    )
    heads = ("variant", "protocol", "k", "increase", "low", "high")
    _csv(
        folder / CONTEXT,
        heads,
        (
            (row["variant"], protocol[row["causal"]], row["k"], row["increase"], row["low"], row["high"])
            for row in cut_rows(results).rows
        ),
    )
    (folder / SUMMARY).write_text(to_json(summary(results)), encoding="utf-8")


def summary(results: Results) -> dict[str, Any]:
    """Variant → what the diagnostics found of it; no times, which another machine has otherwise."""
    found: dict[str, dict[str, Any]] = {result.name: {} for result in results.variants}
    for part, read in (("perplexity", _adaptive), ("diagnostics", _diagnosed), ("samples", _written)):
        for row in gather(results, part, read).rows:
            numbers = {key: value for key, value in row.items() if key not in {"variant", "causal"}}
            found[row["variant"]] |= {key: value for key, value in numbers.items() if value is not None}
    return found


def _adaptive(result: Result, found: Numbers) -> Iterable[Row]:
    for key in ("cold_windows", "neural_cache", "dynamic_evaluation"):
        if block := found.get(key):
            prefix = "" if result.causal else "pseudo_"
            yield {f"{prefix}perplexity_{key}": block[f"{prefix}perplexity_per_token"]}


def _diagnosed(_: Result, found: Numbers) -> Iterable[Row]:
    lesson = found["lesson"]
    yield {
        "effective_context_tokens": lesson["effective_context_tokens"],
        "gradient_vanished_at": lesson["gradient_vanished_at_after_training"],
    }
    for run in (found["overfitting"]["short_runs"] or {}).get("runs", ()):
        yield {f"gap_{'with' if run['dropout'] else 'without'}_dropout": run["gap"]}


def _written(_: Result, found: Numbers) -> Iterable[Row]:
    for row in found["temperatures"]:
        if row["temperature"] == 1:
            yield {"real_word_fraction": row["real_word_fraction"]}


def _csv(path: Path, heads: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(heads)
        writer.writerows(rows)
