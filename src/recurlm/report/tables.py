"""Tables of cells that are ready to be read, and how their numbers are written; independent of Markdown and HTML."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import pandas as pd

from recurlm.report.metrics import Metrics, pivoted
from recurlm.report.results import OBJECTIVES, BundleResult, Results

NONE = "—"
MOST_PER_WORD = 100_000  # more than a corpus has different words


@dataclass(frozen=True)
class Cell:
    text: str
    best: bool = False  # of its column
    value: float | None = None  # what a reader sorts by, where it is a number
    note: str = ""  # beside it, such as its interval


@dataclass(frozen=True)
class Table:
    """Rows of cells under heads; the first column names the row."""

    heads: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    caption: str = ""
    words: int = 1  # number of columns from the left that hold words


@dataclass(frozen=True)
class Column:
    """A column of a data frame: how `show` formats it, its head, and whether the lowest or the highest is best.

    Columns `<name> low` and `<name> high` hold its interval, where it has one.
    """

    name: str
    form: str = ","
    head: str = ""
    best: Literal["", "min", "max"] = ""


def show(value: Any, form: str = ",") -> str:
    """A number as text: Python's format, or MB, or one that ends in %; a dash where there is none.

    `word` is for perplexities per word: of a model of characters that has hardly learned, one says nothing.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NONE
    if isinstance(value, str):
        return value
    if form == "word":
        return show(value, ",.1f") if value <= MOST_PER_WORD else f"over {MOST_PER_WORD:,}"
    if form == "MB":
        return f"{value / 1e6:,.1f} MB"
    if form.endswith("%"):
        return f"{show(100 * value, f'{form[:-1]}f' if form[-2:-1].isdigit() else form[:-1])} %"
    if form.endswith("e") and value == 0:
        return "0"
    if form == "," and float(value).is_integer():
        value = int(value)  # a data frame holds counts as floats
    return format(value, form).replace("-", "−")


def label(metric: str) -> str:
    """A metric's name for a reader: `pseudo_bits_per_byte` is pseudo-bits per byte."""
    return re.sub(r"^pseudo ", "pseudo-", metric.replace("_", " "))


def grid(head: str, frame: pd.DataFrame, columns: Iterable[Column], caption: str = "") -> Table:
    """A row for each row of the frame, which its index names; columns that it lacks are dashes."""
    columns = tuple(columns)
    names = [Cell(name if isinstance(name, str) else ", ".join(map(str, name))) for name in frame.index]
    rows = zip(names, *(_cells(frame, column) for column in columns), strict=True)
    return Table((head, *(column.head or label(column.name) for column in columns)), tuple(rows), caption)


def _cells(frame: pd.DataFrame, column: Column) -> Iterator[Cell]:
    """The cells of a column; the best is marked, unless all are equal."""
    missing = pd.Series(None, frame.index, dtype=object)
    values, low, high = (frame.get(f"{column.name}{bound}", missing) for bound in ("", " low", " high"))
    known = values.dropna()
    best = getattr(known, column.best)() if column.best and known.nunique() > 1 else None
    for value, *bounds in zip(values, low, high, strict=True):
        number = float(value) if isinstance(value, int | float) and not math.isnan(value) else None
        note = "" if pd.isna(bounds[0]) else " to ".join(show(bound, column.form) for bound in bounds)
        yield Cell(show(value, column.form), number is not None and number == best, number, note)


def rows_of(heads: Sequence[str], cells: Iterable[Sequence[str]], words: int = 1, caption: str = "") -> Table:
    """A table of texts."""
    return Table(tuple(heads), tuple(tuple(map(Cell, row)) for row in cells), caption, words)


def markdown(table: Table) -> str:
    """A Markdown table: the first column left-aligned, all others right-aligned."""
    heads = [escape_markdown(head) for head in table.heads]
    rule = [":--", *("--:" for _ in heads[1:])]
    rows = [[_markdown_cell(cell) for cell in row] for row in table.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


def _markdown_cell(cell: Cell) -> str:
    text = f"**{escape_markdown(cell.text)}**" if cell.best else escape_markdown(cell.text)
    return f"{text} ({cell.note})" if cell.note else text


def escape_markdown(text: str) -> str:
    """The text with all Markdown markup escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))


# The tables of the report's page, as data frames from the table of metrics; report.j2 names their columns.

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
