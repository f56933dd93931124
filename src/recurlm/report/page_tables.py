"""The tables of the report's page, each from the table of metrics."""

from __future__ import annotations

import math
from collections.abc import Iterable

import pandas as pd

from recurlm.report.metrics import Metrics, pivoted
from recurlm.report.results import OBJECTIVES, BundleResult, Objective, Results
from recurlm.report.tables import Column, Table, grid, label, rows_of, show

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
        frame = _with_bounds(frame, metrics, "static", "variant")
        static = metrics.wide("static").reindex(frame.index)
        for metric in static.columns.intersection(frame.columns):  # an interval of an earlier model is none of this one
            own = (frame[metric] - static[metric]).abs() <= 1e-6 * frame[metric].abs()
            bounds = [f"{metric} low", f"{metric} high"]
            frame[bounds] = frame[bounds].where(own)
    return frame.reindex([result.name for result in results.variants])


def _with_bounds(
    frame: pd.DataFrame, metrics: Metrics, protocols: str | Iterable[str], index: str | list[str]
) -> pd.DataFrame:
    """The frame with `<metric> low` and `<metric> high` of a protocol on the test split."""
    for bound in ("low", "high"):
        frame = frame.join(metrics.wide(protocols, index, bound, split="test").add_suffix(f" {bound}"))
    return frame


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


def lesson(results: Results, metrics: Metrics) -> Table:
    """Gates, memory and speed."""
    frame = metrics.wide("lesson").join(_speeds(metrics), how="outer")
    columns = (
        Column("gates"),
        Column("parameters"),
        Column("state_size"),
        Column("effective_context_tokens", head="effective context, tokens"),
        Column("gradient_vanished_at_before_training", head="gradient below 1 % at k, before training"),
        Column("gradient_vanished_at_after_training", head="after training"),
        Column("training", ",.0f", "training, tokens/s on this machine"),
        Column("tokens_per_second", ",.0f", "generation in fp32, tokens/s"),
        Column("filled_per_second", ",.0f", "mask filling, tokens/s"),
    )
    return grid("variant", frame.reindex([result.name for result in results.variants]), columns)


def _speeds(metrics: Metrics) -> pd.DataFrame:
    """Tokens/s of training, and of the fp32 bundle, with the threads of each."""
    trained = metrics.wide("train").reindex(columns=["tokens_per_second", "seconds", "threads"])
    trained.columns = pd.Index(["training", "training_seconds", "training_threads"])
    return trained.join(metrics.wide("fp32 timings"), how="outer")


def protocols(metrics: Metrics, objective: Objective) -> Table | None:
    """Perplexity by protocol: a row a variant and protocol, with the static score of the same tokens."""
    more = {"objective": objective.name}
    frame = metrics.wide(PROTOCOLS, VARIANT_AND_PROTOCOL, **more)
    if not len(frame):
        return None
    frame = _with_bounds(frame, metrics, PROTOCOLS, VARIANT_AND_PROTOCOL)
    same = metrics.wide([f"static for {each}" for each in PROTOCOLS], VARIANT_AND_PROTOCOL, **more)
    same = same.rename(index=lambda name: name.removeprefix("static for "), level="protocol")
    frame = frame.join(same.add_suffix(" of static"))
    gain = Column("gain_nats_per_token", ",.3f", "gain, nats per token")
    static = Column(objective.metric("perplexity_per_token") + " of static", ",.2f", "static on the same tokens")
    columns = (
        Column(objective.metric("perplexity_per_token"), ",.2f"),
        Column(objective.metric("perplexity_per_word"), "word"),
        Column("out_of_vocabulary_rate", ".2%", "words out of vocabulary"),
        Column(objective.metric("bits_per_byte"), ",.4f"),
        Column(objective.metric("bits_per_character"), ",.4f"),
        Column("tokens"),
        *(() if objective.pseudo else (static, gain)),
    )
    note = ": pseudo-perplexity, comparable among cloze models only" if objective.pseudo else ""
    caption = f"{objective.label.capitalize()}{note}"
    return grid("variant, protocol", frame.rename(index=label, level="protocol"), columns, caption)


def gradients(metrics: Metrics) -> Table | None:
    """Where gradients are below 1 %."""
    frame = metrics.wide("before training").join(metrics.wide("after training").add_suffix(" after"))
    first = metrics.rows("after training", "state_mean", at=1.0).set_index("variant")["value"]
    columns = (
        Column("vanished_at", head="below 1 % at k, before training"),
        Column("vanished_at after", head="below 1 % at k, after training"),
        Column("first", ",.3f", "norm at k = 1, after training"),
        Column("sides"),
    )
    return grid("variant", frame.assign(first=first), columns) if len(frame) else None


def context(metrics: Metrics) -> Table | None:
    """Effective contexts."""
    columns = (
        Column("effective_context_tokens", head="effective context, tokens", best="max"),
        Column("context_tokens", head="whole context, tokens"),
        *(
            Column(each.metric("whole_nats_per_token"), ",.3f", f"{each.unit('nats')} per token, whole context", "min")
            for each in OBJECTIVES
        ),
    )
    frame = metrics.wide("context")
    return grid("variant", frame, columns) if len(frame) else None


def gates(metrics: Metrics) -> Table | None:
    """Activations of each gate."""
    names = [each for each in metrics.table["protocol"].unique() if each.startswith("gate ")]
    frame = metrics.wide(names, VARIANT_AND_PROTOCOL)
    frame.index = pd.Index([f"{variant} {protocol.removeprefix('gate ')}" for variant, protocol in frame.index])
    columns = (
        Column("mean", ",.2f", "mean activation"),
        Column("fraction_closed", ".2%", "closed"),
        Column("fraction_open", ".2%", "open"),
        Column("units_always_closed", ".2%"),
        Column("units_always_open", ".2%"),
    )
    return grid("gate", frame, columns, "Activations of each gate") if len(frame) else None


def overfitting(metrics: Metrics) -> Table | None:
    """The gaps of the short runs; each objective's in columns of its own."""
    names = [each for each in metrics.table["protocol"].unique() if each.startswith("dropout ")]
    frame = metrics.wide(names, ["variant", "objective", "protocol"], split="validation")
    if not len(frame):
        return None
    columns, gaps = [], frame["gap"] if "gap" in frame else pd.Series(None, frame.index, dtype=float)
    for objective in OBJECTIVES:
        gap = f"gap {objective.name}"
        frame[gap] = gaps.where(frame.index.get_level_values("objective") == objective.name)
        columns.append(Column(gap, ",.3f", f"final gap, {objective.unit('nats')}"))
    for objective in OBJECTIVES:
        best = objective.metric("best_validation_nats_per_token")
        columns.append(Column(best, ",.3f", f"lowest validation loss, {objective.unit('nats')}"))
    columns.append(Column("best_at_step", head="at step"))
    return grid("run", frame.droplevel("objective"), columns, "Gap between validation and train")


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
                head = (result.name, result.objective.name, bundle.precision)
                rows.append((*head, order, float(rate), bits))
    return pd.DataFrame(rows, columns=["variant", "objective", "precision", "order", "speed", "bits"])


def training_times(metrics: Metrics) -> pd.DataFrame:
    """Minutes of training and bits per byte on the test split, of left-to-right models."""
    minutes, bits = (
        frame[name] if name in frame else pd.Series(dtype=float)
        for frame, name in (
            (metrics.wide("train"), "seconds"),
            (metrics.wide("evaluate", split="test"), "bits_per_byte"),
        )
    )
    return pd.DataFrame({"minutes": minutes / 60, "bits": bits}).dropna().reset_index(names="variant")


def lengths(results: Results, metrics: Metrics) -> Table | None:
    """How time grows with length."""
    frame = metrics.wide("length")
    timed = {result.name: result.diagnosis.files.get("timings", {}) for result in results.variants}
    frame["device"] = [f"{timed[name]['device']}, {timed[name]['precision_of_training']}" for name in frame.index]
    columns = (
        Column("training_growth", ",.2f", "training step"),
        Column("generation_growth", ",.2f", "generation"),
        Column("device", head="device, precision of training"),
    )
    return grid("variant", frame, columns, "Slope of log seconds over log length") if len(frame) else None


def temperatures(metrics: Metrics) -> Table | None:
    """Measures of generated text, and of held-out text."""
    rows = metrics.rows(("temperature", "held-out text"))
    if not len(rows):
        return None
    rows = rows.assign(temperature=rows["at"].map("{:g}".format).replace("nan", "held-out text"))
    frame = pivoted(rows, ["variant", "temperature"])
    repeated = next((each for each in frame.columns if each.startswith("repeated_")), "repeated")
    columns = (
        *(Column(f"distinct_{n}", ",.3f", f"distinct {n}-grams") for n in (1, 2, 3)),
        Column(repeated, ".2%", "repeated n-grams"),
        Column("real_word_fraction", ".2%", "words in the train vocabulary"),
        Column("longest_copied_words", head="longest copied n-gram, words"),
        Column("mean_longest_copied_words", ",.1f", "mean longest copied n-gram"),
        Column("fill_accuracy", ".2%"),
    )
    return grid("variant, temperature", frame, columns, "Measures")


def verifications(results: Results, metrics: Metrics) -> Table:
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
    columns = (
        Column("status", head="ONNX = PyTorch"),
        Column("bundle_bytes", "MB", "size"),
        Column("perplexity_increase", "+.2%", "perplexity increase on test, over PyTorch in fp32"),
        Column("largest_logit_difference", ".1e"),
        Column("greedy_tokens_identical", head="identical greedy tokens"),
        Column("sampled_tokens_identical", head="identical sampled tokens"),
        Column("near_ties"),
        Column("chunked", head="chunked calls identical"),
        Column("tokens_per_second", ",.0f", "generation, tokens/s"),
        Column("filled_per_second", ",.0f", "mask filling, tokens/s"),
    )
    return grid("bundle", frame, columns)


def corpus(results: Results) -> Table | None:
    """The sizes of the splits."""
    texts, tokens = ((each or {}).get("splits", {}) for each in (results.corpus, results.tokens))
    keys = ("documents", "bytes", "characters", "words", "tokens")
    splits = [split for split in ("train", "validation", "test") if split in texts or split in tokens]
    counts = {split: texts.get(split, {}) | tokens.get(split, {}) for split in splits}
    rows = [(split, *(show(counts[split].get(key)) for key in keys)) for split in splits]
    return rows_of(("split", *keys), rows) if rows else None


def timings(results: Results, metrics: Metrics) -> Table | None:
    """Training and inference speeds on this machine; None if it has timings of none of these models."""
    if not any(result.training_timings or result.bundle.timings for result in results.variants):
        return None
    frame = _speeds(metrics).reindex([result.name for result in results.variants])
    for key in ("device", "precision"):
        frame[key] = [result.training_timings.get(key) for result in results.variants]
    columns = (
        Column("training", ",.0f", "training, tokens/s", "max"),
        Column("training_seconds", ",.0f", "training, seconds"),
        Column("device"),
        Column("precision"),
        Column("training_threads", head="threads"),
        Column("tokens_per_second", ",.0f", "generation in fp32, tokens/s", "max"),
        Column("filled_per_second", ",.0f", "mask filling in fp32, tokens/s", "max"),
        Column("threads", head="threads of the bundle"),
    )
    return grid("variant", frame, columns)
