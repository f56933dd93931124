"""Perplexity by protocol, by position in a window and by token frequency."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from recurlm.report.charts import scores
from recurlm.report.frames import Row, read_frame
from recurlm.report.objectives import Objective, by_objective
from recurlm.report.results import JsonObject, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import Column, Table, count, decimals, interval, per_word, percent, rows_of

FILES = ("data/metrics/perplexity/<variant>.json",)
PROTOCOLS = {
    "static": "static",
    "cold_windows": "cold windows",
    "neural_cache": "neural cache",
    "dynamic_evaluation": "dynamic evaluation",
}


def adaptive(results: Results) -> Section:
    scored = read_frame(results, "perplexity", _protocols)
    plotted = read_frame(results, "perplexity", _plotted)
    tables = []
    for objective, rows in by_objective(scored.rows):
        note = ": pseudo-perplexity, comparable among cloze models only" if objective.pseudo else ""
        tables.append((f"{objective.label.capitalize()}{note}", _table(rows, objective)))
    return Section(
        "Perplexity as papers report it",
        (
            "Static: the trained weights, the state carried through each document. Cold windows: the state reset at "
            "the start of each window. Neural cache (Grave et al. 2017) and dynamic evaluation (Krause et al. 2018) "
            "also adapt to the test text read so far: each compares only with the same protocol, and was tuned on "
            "validation text.",
            "A protocol that reads only part of the split stands beside the static score of the same tokens. Intervals "
            f"are {results.params.diagnose.confidence:.0%} bootstrap intervals over sections of the split.",
        ),
        charts=scores.perplexities(plotted.rows, list(results.params.variants)),
        tables=tuple(tables),
        gaps=scored.gaps,
        sources=FILES,
    )


def _protocols(result: Result, perplexity: JsonObject) -> Iterable[Row]:
    for key in PROTOCOLS:
        if scores := perplexity[key]:
            yield _row(scores, _protocol(key, scores, result.objective), result.objective)


def _protocol(key: str, scores: JsonObject, objective: Objective) -> str:
    if key == "static":
        return f"static, {objective.protocol}"
    return f"{PROTOCOLS[key]}, {scores['window_tokens']} tokens" if key == "cold_windows" else PROTOCOLS[key]


def _row(scores: JsonObject, protocol: str, objective: Objective) -> Row:
    same_tokens = scores.get("static_on_the_same_tokens") or {}
    return {
        "protocol": protocol,
        "perplexity": float(scores[objective.metric("perplexity_per_token")]),
        "interval": (scores.get("intervals_over_windows") or {}).get(objective.metric("perplexity_per_token")),
        "word": scores[objective.metric("perplexity_per_word")],
        "byte": scores[objective.metric("bits_per_byte")],
        "character": scores[objective.metric("bits_per_character")],
        "unknown": scores["out_of_vocabulary_rate"],
        "tokens": scores["tokens"],
        "static": same_tokens.get("perplexity_per_token"),
        "gain": scores.get("gain_nats_per_token"),
        "gain_interval": scores.get("gain_interval_over_windows"),
    }


def _plotted(result: Result, perplexity: JsonObject) -> Iterable[Row]:
    """The protocols of a left-to-right model, and the static score of the tokens that dynamic evaluation reads."""
    for row in () if result.objective.pseudo else _protocols(result, perplexity):
        low, high = row["interval"] or (row["perplexity"], row["perplexity"])
        part = row["tokens"] < perplexity["static"]["tokens"]
        name = f"{row['protocol']}, first {row['tokens']:,}" if part else row["protocol"]
        if part and row["static"] is not None:
            static = float(row["static"])
            yield {"protocol": f"static, the same {row['tokens']:,}", **_bar(static, static, static, row["tokens"])}
        yield {"protocol": name, **_bar(row["perplexity"], low, high, row["tokens"])}


def _bar(perplexity: float, low: float, high: float, tokens: int) -> Row:
    return {"perplexity": perplexity, "low": float(low), "high": float(high), "tokens": tokens}


def _table(rows: list[Row], objective: Objective) -> Table:
    def value(key: str) -> Any:
        return lambda row: row[key]

    columns = [
        Column(objective.unit("perplexity per token"), value("perplexity"), decimals(2)),
        Column("interval", value("interval"), interval),
        Column(objective.unit("perplexity per word"), value("word"), per_word),
        Column("words out of vocabulary", value("unknown"), percent),
        Column(objective.unit("bits per byte"), value("byte"), decimals(4)),
        Column(objective.unit("bits per character"), value("character"), decimals(4)),
        Column("tokens", value("tokens"), count),
    ]
    if not objective.pseudo:
        columns += [
            Column("static on the same tokens", value("static"), decimals(2)),
            Column("gain, nats per token", value("gain"), decimals(3)),
            Column("interval of the gain", value("gain_interval"), interval),
        ]
    named = [(f"{row['variant']}, {row['protocol']}", row) for row in rows]
    return rows_of("variant, protocol", named, tuple(columns))


def breakdown(results: Results) -> Section:
    names = list(results.params.variants)
    position = read_frame(results, "perplexity", _positions)
    frequency = read_frame(results, "perplexity", _frequencies)
    return Section(
        "Where the loss is",
        (
            "By position in a cold window: the curve is flat where more context no longer helps. By the token's "
            "frequency in the train split: rare tokens have the highest loss.",
            "Shaded: bootstrap intervals over sections.",
        ),
        charts=scores.by_position(position.rows, names) + scores.by_frequency(frequency.rows, names),
        gaps=position.gaps,
        sources=FILES,
    )


def _positions(_: Result, perplexity: JsonObject) -> Iterable[Row]:
    for row in perplexity["by_position"] or ():
        if row["nats_per_token"] is not None:
            middle = (row["from"] * row["to"]) ** 0.5
            yield {"position": middle, "positions": _range(row["from"], row["to"]), **_loss(row, "nats_per_token")}


def _frequencies(_: Result, perplexity: JsonObject) -> Iterable[Row]:
    for row in perplexity["by_frequency"]:
        key = "pseudo_nats_per_token" if "pseudo_nats_per_token" in row else "nats_per_token"
        if row[key] is not None:
            yield {"count": _range(row["from"], row["to"]), "fraction": row["fraction"], **_loss(row, key)}


def _loss(row: JsonObject, key: str) -> Row:
    loss = float(row[key])
    low, high = row["interval_over_windows"] or (loss, loss)
    return {"loss": loss, "low": float(low), "high": float(high)}


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
