"""The tables of the report's page, as data frames from the table of metrics; report.j2 names their columns."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from recurlm.report.metrics import Metrics, pivoted
from recurlm.report.results import OBJECTIVES, BundleResult, Results
from recurlm.report.tables import Column, Table, grid, label, show

VARIANT_AND_PROTOCOL = ["variant", "protocol"]
PROTOCOLS = ("static", "cold_windows", "neural_cache", "dynamic_evaluation")


def comparison(results: Results, metrics: Metrics) -> Table:
    """One row per variant: test scores with their intervals, size and verification."""
    frame = _scores(results, metrics, "test").drop(columns=["parameters", "gates"], errors="ignore")
    frame = frame.join(metrics.wide("model"))
    sizes = [result.model_config for result in results.variants]
    frame["size"] = [f"{config['layers']} × {config['hidden_size']}" for config in sizes]
    frame["status"] = [_status(result.bundles) for result in results.variants]
    columns = (
        *_score_columns(results),
        Column("parameters"),
        Column("size", head="layers × hidden"),
        Column("gates"),
        Column("bundle_bytes", "MB", "bundle"),
        Column("status", head="ONNX = PyTorch"),
    )
    return grid("variant", frame, columns)


def validation(results: Results, metrics: Metrics) -> Table:
    """The same scores on the validation split."""
    return grid("variant", _scores(results, metrics, "validation"), _score_columns(results))


def _scores(results: Results, metrics: Metrics, split: str) -> pd.DataFrame:
    """A row a variant with its scores on a split; on test with the bounds of their intervals."""
    frame = metrics.wide("evaluate", split=split)
    if split == "test":
        static = metrics.wide("static").reindex(frame.index)
        for metric in static.columns.intersection(frame.columns):  # an interval of an earlier model is none of this one
            own = (frame[metric] - static[metric]).abs() <= 1e-6 * frame[metric].abs()
            bounds = static.columns.intersection([f"{metric} low", f"{metric} high"])
            frame[bounds] = static[bounds].where(own)
    return frame.reindex([result.name for result in results.variants])


def _score_columns(results: Results) -> list[Column]:
    """The scores of each objective in columns of its own; pseudo-likelihoods only where there is a cloze model."""
    present = {result.objective for result in results.variants}
    forms = {"perplexity_per_token": ",.2f", "perplexity_per_word": "word", "bits_per_byte": ",.4f"}
    columns = [
        Column(objective.metric(name), form, best="min")
        for objective in OBJECTIVES
        if objective in present or not objective.pseudo
        for name, form in forms.items()
    ]
    return [*columns, Column("out_of_vocabulary_rate", ".2%", "words out of vocabulary")]


def _status(bundles: Iterable[BundleResult]) -> str:
    bundles = list(bundles)
    if not all(bundle.verification for bundle in bundles):
        return "not yet verified"
    return "verified" if all(bundle.verified for bundle in bundles) else "check failed"


def frames(results: Results, metrics: Metrics) -> dict[str, Any]:
    """What report.j2 makes tables of: a row a variant, or a variant and what `protocol` or `precision` it is of."""
    names = [result.name for result in results.variants]
    timed = any(result.training_timings or result.bundle.timings for result in results.variants)
    lengths = metrics.wide("length")
    length_timings = {result.name: result.diagnosis.files.get("timings", {}) for result in results.variants}
    lengths["device"] = ["{device}, {precision_of_training}".format(**length_timings[name]) for name in lengths.index]
    speeds = _speeds(metrics).reindex(names)
    for key in ("device", "precision"):
        speeds[key] = [result.training_timings.get(key) for result in results.variants]
    flow = metrics.wide("before training").join(metrics.wide("after training").add_suffix(" after"))
    first = metrics.rows("after training", "state_mean", at=1.0).set_index("variant")["value"]
    gates = _of_protocols(metrics, "gate ")
    gates.index = pd.Index([f"{variant} {protocol.removeprefix('gate ')}" for variant, protocol in gates.index])
    return {
        "lesson": metrics.wide("lesson").join(_speeds(metrics), how="outer").reindex(names),
        "protocols": {objective: _protocols(metrics, objective.name) for objective in OBJECTIVES},
        "gradients": flow.assign(first=first),
        "context": metrics.wide("context"),
        "gates": gates,
        "overfitting": _overfitting(metrics),
        "lengths": lengths,
        "temperatures": _temperatures(metrics),
        "verifications": _verifications(results, metrics),
        "corpus": _corpus(results),
        "timings": speeds if timed else speeds.head(0),
    }


def _speeds(metrics: Metrics) -> pd.DataFrame:
    """Tokens/s of training, and of the fp32 bundle, with the threads of each."""
    trained = metrics.wide("train").reindex(columns=["tokens_per_second", "seconds", "threads"])
    trained.columns = pd.Index(["training", "training_seconds", "training_threads"])
    return trained.join(metrics.wide("fp32 timings"), how="outer")


def _protocols(metrics: Metrics, objective: str) -> pd.DataFrame:
    """Perplexity by protocol, with the static score of the same tokens."""
    frame = metrics.wide(PROTOCOLS, VARIANT_AND_PROTOCOL, objective=objective)
    same = metrics.wide([f"static for {each}" for each in PROTOCOLS], VARIANT_AND_PROTOCOL, objective=objective)
    same = same.rename(index=lambda name: name.removeprefix("static for "), level="protocol")
    return frame.join(same.add_suffix(" of static")).rename(index=label, level="protocol")


def _of_protocols(metrics: Metrics, prefix: str, **more: Any) -> pd.DataFrame:
    """The numbers of all protocols that begin so."""
    names = [each for each in metrics.table["protocol"].unique() if each.startswith(prefix)]
    return metrics.wide(names, VARIANT_AND_PROTOCOL, **more)


def _overfitting(metrics: Metrics) -> pd.DataFrame:
    """The short runs; the gaps of each objective in a column of their own."""
    frame = _of_protocols(metrics, "dropout ", split="validation")
    objectives = metrics.table.groupby("variant")["objective"].first()
    gaps = frame["gap"] if "gap" in frame else pd.Series(None, frame.index, dtype=float)
    for objective in OBJECTIVES:
        own = frame.index.get_level_values("variant").map(objectives) == objective.name
        frame[f"gap {objective.name}"] = gaps.where(own)
    return frame


def bundles(results: Results) -> pd.DataFrame:
    """(Pseudo-)bits per byte on the test split and tokens/s of each bundle for which both were measured."""
    rows = []
    for result in results.variants:
        test = result.metrics.get("test") or {}
        for order, bundle in enumerate(result.bundles):
            rate = bundle.timings.get(result.objective.rate)
            nats = bundle.verification.get("scorer_nats_per_token")
            if rate is not None and nats is not None and test.get("bytes"):
                bits = nats * test["tokens"] / test["bytes"] / math.log(2)
                rows.append((result.name, result.objective.name, bundle.precision, order, float(rate), bits))
    return pd.DataFrame(rows, columns=["variant", "objective", "precision", "order", "speed", "bits"])


def training_times(metrics: Metrics) -> pd.DataFrame:
    """Minutes of training and bits per byte on the test split, of left-to-right models."""
    seconds = metrics.wide("train").reindex(columns=["seconds"])["seconds"]
    bits = metrics.wide("evaluate", split="test").reindex(columns=["bits_per_byte"])["bits_per_byte"]
    return pd.DataFrame({"minutes": seconds / 60, "bits": bits}).dropna().reset_index(names="variant")


def _temperatures(metrics: Metrics) -> pd.DataFrame:
    """Measures of generated text, and of held-out text."""
    rows = metrics.rows(("temperature", "held-out text"))
    rows = rows.assign(temperature=rows["at"].map("{:g}".format).replace("nan", "held-out text"))
    frame = pivoted(rows, ["variant", "temperature"])
    return frame.rename(columns=lambda name: "repeated" if name.startswith("repeated_") else name)


def _verifications(results: Results, metrics: Metrics) -> pd.DataFrame:
    """One row per bundle: its verification, its size, its perplexity increase and its speed."""
    bundles = {(result.name, each.precision): each for result in results.variants for each in result.bundles}
    precisions = list(dict.fromkeys(precision for _, precision in bundles))
    frame = metrics.wide(precisions, VARIANT_AND_PROTOCOL, split="test")
    speeds = metrics.wide([f"{each} timings" for each in precisions], VARIANT_AND_PROTOCOL)
    speeds = speeds.rename(index=lambda name: name.removesuffix(" timings"), level="protocol")
    speeds = speeds.reindex(columns=["tokens_per_second", "filled_per_second"])
    frame = frame.join(speeds, how="outer").reindex(pd.MultiIndex.from_tuples(bundles, names=VARIANT_AND_PROTOCOL))
    frame["status"] = [_status([bundle]) for bundle in bundles.values()]
    if "chunked_calls_identical" in frame:
        frame["chunked"] = frame["chunked_calls_identical"].map({1.0: "yes", 0.0: "no"})
    frame.index = pd.Index([" ".join(each) for each in frame.index])
    return frame


def _corpus(results: Results) -> pd.DataFrame:
    """The sizes of the splits."""
    texts, tokens = (each.get("splits", {}) for each in (results.corpus, results.tokens))
    splits = [split for split in ("train", "validation", "test") if split in texts or split in tokens]
    rows = [texts.get(split, {}) | tokens.get(split, {}) for split in splits]
    return pd.DataFrame(rows, index=splits, columns=["documents", "bytes", "characters", "words", "tokens"]).map(show)
