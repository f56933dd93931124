"""All numbers of a report as one tidy table: a row for each variant, split, protocol and metric.

| column    | holds                                                                                             |
|-----------|---------------------------------------------------------------------------------------------------|
| variant   | its name in params.yaml                                                                           |
| objective | causal or cloze                                                                                   |
| split     | the text that was scored: train, validation, test; empty for what no text was scored for          |
| protocol  | how, such as `evaluate`, `static`, `neural_cache`, `int8`, `cut` (a context to `at` tokens)       |
| metric    | its name in data/metrics or data/timings; a cloze model's likelihoods begin with `pseudo_`        |
| at        | the place on a curve: tokens, steps, k, a temperature; empty for a single number                  |
| value     | the number; with `low` and `high`, its bootstrap interval, where it has one                       |
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import pandas as pd

from recurlm.report.results import DIAGNOSTIC_FILES, JsonObject, Result, Results

COLUMNS = ["variant", "objective", "split", "protocol", "metric", "at", "value", "low", "high"]
WRONG_SHAPE = (KeyError, TypeError, ValueError, IndexError, AttributeError, ArithmeticError)
ADAPTIVE = ("neural_cache", "dynamic_evaluation")
Row = dict[str, Any]
Names = str | Iterable[str]


@dataclass(frozen=True)
class Metrics:
    """The table, and what it lacks."""

    table: pd.DataFrame
    gaps: dict[str, tuple[str, ...]]  # key of `DIAGNOSES` → "lstm: data/metrics/… is missing"

    def rows(self, protocol: Names, metric: Names | None = None, **more: Any) -> Any:
        """The rows of a protocol or of several, as a data frame; `more` names another column and its value."""
        selected = self.table[self.table["protocol"].isin(_listed(protocol))]
        if metric is not None:
            selected = selected[selected["metric"].str.removeprefix("pseudo_").isin(_listed(metric))]
        for column, value in more.items():
            selected = selected[selected[column] == value]
        return selected

    def wide(self, protocol: Names, index: Names = "variant", **more: Any) -> pd.DataFrame:
        """The single numbers of a protocol: a row a variant (or a combination of `index`) and a column a metric."""
        selected = self.rows(protocol, **more)
        return pivoted(selected[selected["at"].isna()], index)

    def value(self, variant: str, metric: str, protocol: str, split: str | None = None) -> float | None:
        """One number; None if there is none."""
        more = {"variant": variant} | ({} if split is None else {"split": split})
        selected = self.rows(protocol, **more)
        values = selected.loc[(selected["metric"] == metric) & selected["at"].isna(), "value"]
        return float(values.iloc[0]) if len(values) and not math.isnan(values.iloc[0]) else None

    def short_runs(self, variant: str, metric: str) -> dict[str, float]:
        """Protocol → the number of each run that a small model overfits in: `dropout 0` first."""
        runs = self.table[self.table["protocol"].str.startswith("dropout ") & (self.table["metric"] == metric)]
        runs = runs[(runs["variant"] == variant) & runs["at"].isna()].dropna(subset="value")
        return dict(zip(runs["protocol"], runs["value"], strict=True))

    def interval(self, variant: str, metric: str, protocol: str) -> tuple[float, float] | None:
        """The bootstrap interval of a number on the test split."""
        selected = self.rows(protocol, split="test", variant=variant)
        bounds = selected.loc[selected["metric"] == metric, ["low", "high"]].dropna()
        return (float(bounds["low"].iloc[0]), float(bounds["high"].iloc[0])) if len(bounds) else None


def pivoted(rows: pd.DataFrame, index: Names) -> pd.DataFrame:
    """A column a metric, with `<metric> low` and `<metric> high` where it has intervals; rows as the table has them.

    What was measured twice is there once.
    """
    keys = _listed(index)
    rows = rows.drop_duplicates([*keys, "metric"])
    frame = rows.pivot(index=index, columns="metric", values=["value", "low", "high"])
    frame = frame.loc[:, (frame.columns.get_level_values(0) == "value") | frame.notna().any()]
    frame.columns = pd.Index([name if kind == "value" else f"{name} {kind}" for kind, name in frame.columns], dtype=str)
    return frame.reindex(rows.set_index(keys).index.unique())


def _listed(values: Names) -> list[str]:
    return [values] if isinstance(values, str) else list(values)


def read_metrics(results: Results) -> Metrics:
    """The table of all results.

    A diagnosis that is missing, or was written by another version of this project, is a gap and not an error: the other
    variants keep their rows.
    """
    rows: list[Row] = []
    gaps: dict[str, list[str]] = {name: [] for name in DIAGNOSES}
    for result in results.variants:
        head = {"variant": result.name, "objective": result.objective.name}
        rows += [head | row for row in _stages(result)]
        for name, (part, parse) in DIAGNOSES.items():
            content = result.diagnosis.files.get(part)
            if content is None:
                gaps[name].append(f"{result.name}: {result.diagnosis.problems.get(part, 'no diagnosis')}")
                continue
            try:
                rows += [head | row for row in list(parse(result, content))]
            except WRONG_SHAPE as error:
                file, kind = DIAGNOSTIC_FILES[part].format(result.name), type(error).__name__
                gaps[name].append(f"{result.name}: {file} does not hold what is shown here ({kind}: {error})")
    table = pd.DataFrame(rows, columns=COLUMNS).astype(dict.fromkeys(("at", "value", "low", "high"), float))
    return Metrics(table, {name: tuple(lines) for name, lines in gaps.items()})


def _numbers(block: JsonObject | None, split: str, protocol: str, intervals: JsonObject | None = None) -> Iterator[Row]:
    """A row for each number of a JSON object."""
    for metric, value in (block or {}).items():
        if isinstance(value, int | float):
            yield _row(split, protocol, metric, float(value), interval=(intervals or {}).get(metric))


def _row(split: str, protocol: str, metric: str, value: Any, at: Any = None, interval: Any = None) -> Row:
    return dict(zip(COLUMNS[2:], (split, protocol, metric, at, value, *(interval or (None, None))), strict=True))


def _stages(result: Result) -> Iterator[Row]:
    """What train, evaluate and verify wrote."""
    for split in ("validation", "test"):
        yield from _numbers(result.metrics.get(split), split, "evaluate")
    sizes = {"parameters": result.parameters, "bundle_bytes": result.bundle.verification.get("bundle_bytes")}
    yield from _numbers(sizes | {"gates": result.model.get("gates")}, "", "model")
    yield from _numbers(result.training_timings, "", "train")
    for bundle in result.bundles:
        yield from _numbers(bundle.verification, "test", bundle.precision)
        yield from _numbers(bundle.timings, "", f"{bundle.precision} timings")
    metric = result.objective.metric("nats_per_token")
    for protocol, points in (("curve", result.curve), ("log", result.log)):
        for point in points.itertuples():
            for split, loss in (("train", point.train_loss), ("validation", point.validation_loss)):
                if not math.isnan(loss):
                    yield _row(split, protocol, metric, loss, point.tokens)
                    if not math.isnan(point.seconds):
                        yield _row(split, f"{protocol} by minutes", metric, loss, point.seconds / 60)


def _perplexity(result: Result, scores: JsonObject) -> Iterator[Row]:
    for protocol in ("static", "cold_windows", *ADAPTIVE):
        block = scores[protocol]
        if not block:
            continue
        float(block[result.objective.metric("perplexity_per_token")])  # or it is no such file
        gain = {"gain_nats_per_token": block.get("gain_interval_over_windows")}
        yield from _numbers(block, "test", protocol, gain | (block.get("intervals_over_windows") or {}))
        yield from _numbers(block, "test", f"{protocol} by document", block.get("intervals_over_documents"))
        yield from _numbers(block.get("static_on_the_same_tokens"), "test", f"static for {protocol}")


def _breakdown(result: Result, scores: JsonObject) -> Iterator[Row]:
    for protocol, bins in (("position", scores["by_position"]), ("frequency", scores["by_frequency"])):
        for each in bins or ():
            metric, interval = result.objective.metric("nats_per_token"), each["interval_over_windows"]
            # A position stands at the geometric mean of its bin, a frequency at the lower end.
            position = (each["from"] * each["to"]) ** 0.5 if protocol == "position" else each["from"]
            if each[metric] is not None:
                yield _row("test", protocol, metric, each[metric], position, interval)


def _lesson(_: Result, content: JsonObject) -> Iterator[Row]:
    yield from _numbers(dict(content["lesson"]), "validation", "lesson")


def _gradients(_: Result, content: JsonObject) -> Iterator[Row]:
    flow = content["gradients"]
    for moment in ("before training", "after training") if flow else ():
        curve = flow[moment.replace(" ", "_")]
        yield from _numbers({"vanished_at": curve["vanished_at"], "sides": flow["sides"]}, "validation", moment)
        for metric in ("state_mean", "input_mean"):
            for k, norm in zip(curve["k"], curve[metric], strict=True):
                yield _row("validation", moment, metric, norm, k)


def _context(_: Result, content: JsonObject) -> Iterator[Row]:
    context = content["context"] or {}
    yield from _numbers(context, "validation", "context")
    for protocol, key in (("cut", "cut"), ("shuffled", "shuffled_beyond"), ("thinned out", "dropped_beyond")):
        for each in context[key] if context else ():
            yield _row(
                "validation", protocol, "increase", float(each["increase"]), each["k"], each["increase_interval"]
            )


def _gates(_: Result, content: JsonObject) -> Iterator[Row]:
    for gate in content["gates"]["rows"]:
        float(gate["fraction_closed"])
        yield from _numbers(gate, "validation", f"gate {gate['layer']} {gate['gate']}")


def _overfitting(result: Result, content: JsonObject) -> Iterator[Row]:
    overfitting, metric = content["overfitting"], result.objective.metric
    for run in (overfitting["short_runs"] or {}).get("runs", ()):
        protocol = f"dropout {run['dropout']:g}"
        yield from _numbers(run, "validation", protocol)
        for point in run["points"]:
            for split in ("train", "validation"):
                loss = float(point[metric(f"{split}_nats_per_token")])
                yield _row(split, protocol, metric("nats_per_token"), loss, point["step"])
    for last in (overfitting.get("learning_curve") or ())[-1:]:
        yield _row("validation", "curve", "gap", last["gap"])


def _samples(_: Result, content: JsonObject) -> Iterator[Row]:
    for block in content["temperatures"]:
        len(block["texts"])  # which the page shows
        for row in _numbers(block, "", "temperature"):
            yield row | {"at": float(block["temperature"])}
    if content["temperatures"]:
        yield from _numbers(content["held_out_text"], "validation", "held-out text")


def _lengths(_: Result, content: JsonObject) -> Iterator[Row]:
    growth = {key: content[key] for key in ("training_growth", "generation_growth")}
    yield from _numbers(growth, "", "length")
    for key in ("training_step", "generation"):
        for each in content[key]:
            yield _row("", "length", f"{key}_seconds", float(each["seconds"]), each["tokens"])


# Name of a diagnosis → the key of `DIAGNOSTIC_FILES` that holds it, and how it is read.
DIAGNOSES: dict[str, tuple[str, Callable[[Result, JsonObject], Iterable[Row]]]] = {
    "perplexity": ("perplexity", _perplexity),
    "breakdown": ("perplexity", _breakdown),
    "lesson": ("diagnostics", _lesson),
    "gradients": ("diagnostics", _gradients),
    "context": ("diagnostics", _context),
    "gates": ("diagnostics", _gates),
    "overfitting": ("diagnostics", _overfitting),
    "samples": ("samples", _samples),
    "lengths": ("timings", _lengths),
}
