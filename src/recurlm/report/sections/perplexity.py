"""Perplexity as papers report it, each protocol apart; by position and by token frequency."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from recurlm.report.charts import scores
from recurlm.report.found import Row, gather
from recurlm.report.results import Numbers, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import Column, count, decimals, interval, percent, rows_of

FILES = ("data/metrics/perplexity/<variant>.json",)
PROTOCOLS = {
    "static": "static, streamed",
    "cold_windows": "cold windows",
    "neural_cache": "neural cache",
    "dynamic_evaluation": "dynamic evaluation",
}


def adaptive(results: Results) -> Section:
    found = gather(results, "perplexity", _blocks)
    plotted = gather(results, "perplexity", _plotted)
    causal = [row for row in found.rows if row["causal"]]
    cloze = [row for row in found.rows if not row["causal"]]
    tables = [("Left to right", _table(causal, ""))] if causal else []
    tables += [("Cloze: pseudo-numbers, comparable with their like only", _table(cloze, "pseudo-"))] if cloze else []
    return Section(
        "Perplexity as papers report it",
        (
            "Static: the trained weights, the state carried through each document. Cold windows: the state zeroed at "
            "the start of each window. Neural cache (Grave et al. 2017) and dynamic evaluation (Krause et al. 2018) "
            "also learn from the test text that they have read: they compare with their like alone, and were tuned on "
            "validation text.",
            "A protocol that reads only part of the split stands beside the static score of the same tokens. Intervals "
            f"are {results.params.diagnose.confidence:.0%} bootstrap intervals over sections of the split.",
        ),
        charts=scores.perplexities(plotted.rows, list(results.params.variants)),
        tables=tuple(tables),
        gaps=found.gaps,
        sources=FILES,
    )


def _blocks(result: Result, found: Numbers) -> Iterable[Row]:
    for key, protocol in PROTOCOLS.items():
        if block := found[key]:
            yield _scores(result, block, _named(key, protocol, block, result))


def _named(key: str, protocol: str, block: Numbers, result: Result) -> str:
    if key == "static" and not result.causal:
        return "static, cloze"
    return f"{protocol}, {block['window_tokens']} tokens" if key == "cold_windows" else protocol


def _scores(result: Result, block: Numbers, protocol: str) -> Row:
    prefix = "" if result.causal else "pseudo_"
    same = block.get("static_on_the_same_tokens") or {}
    return {
        "protocol": protocol,
        "perplexity": float(block[f"{prefix}perplexity_per_token"]),
        "interval": (block.get("intervals_over_windows") or {}).get(f"{prefix}perplexity_per_token"),
        "word": block[f"{prefix}perplexity_per_word"],
        "byte": block[f"{prefix}bits_per_byte"],
        "character": block[f"{prefix}bits_per_character"],
        "unknown": block["out_of_vocabulary_rate"],
        "tokens": block["tokens"],
        "static": same.get("perplexity_per_token"),
        "gain": block.get("gain_nats_per_token"),
        "gain_interval": block.get("gain_interval_over_sections"),
    }


def _plotted(result: Result, found: Numbers) -> Iterable[Row]:
    """The blocks of a causal model, and the static score of those tokens that dynamic evaluation reads."""
    for row in _blocks(result, found) if result.causal else ():
        low, high = row["interval"] or (row["perplexity"], row["perplexity"])
        part = row["tokens"] < found["static"]["tokens"]
        name = f"{row['protocol']}, first {row['tokens']:,}" if part else row["protocol"]
        if part and row["static"] is not None:
            same = float(row["static"])
            yield {"protocol": f"static, the same {row['tokens']:,}", **_bar(same, same, same, row["tokens"])}
        yield {"protocol": name, **_bar(row["perplexity"], low, high, row["tokens"])}


def _bar(perplexity: float, low: float, high: float, tokens: int) -> Row:
    return {"perplexity": perplexity, "low": float(low), "high": float(high), "tokens": tokens}


def _table(found: list[Row], prefix: str) -> Any:
    def value(key: str) -> Any:
        return lambda row: row[key]

    columns = [
        Column(f"{prefix}perplexity per token", value("perplexity"), decimals(2)),
        Column("interval", value("interval"), interval),
        Column(f"{prefix}perplexity per word", value("word"), decimals(1)),
        Column("words out of vocabulary", value("unknown"), percent),
        Column(f"{prefix}bits per byte", value("byte"), decimals(4)),
        Column(f"{prefix}bits per character", value("character"), decimals(4)),
        Column("tokens", value("tokens"), count),
    ]
    if not prefix:
        columns += [
            Column("static on the same tokens", value("static"), decimals(2)),
            Column("gain, nats per token", value("gain"), decimals(3)),
            Column("interval of the gain", value("gain_interval"), interval),
        ]
    return rows_of(
        "variant, protocol", [(f"{row['variant']}, {row['protocol']}", row) for row in found], tuple(columns)
    )


def breakdown(results: Results) -> Section:
    names = list(results.params.variants)
    position, frequency = gather(results, "perplexity", _positions), gather(results, "perplexity", _frequencies)
    return Section(
        "Where the loss is",
        (
            "By how many tokens of a cold window were read before: the curve goes flat where more context no longer "
            "helps. By how often the train split has the token: rare tokens cost most.",
            "Shaded: bootstrap intervals over sections.",
        ),
        charts=scores.by_position(position.rows, names) + scores.by_frequency(frequency.rows, names),
        gaps=position.gaps,
        sources=FILES,
    )


def _positions(_: Result, found: Numbers) -> Iterable[Row]:
    for row in found["by_position"] or ():
        if row["nats_per_token"] is not None:
            place = (row["from"] * row["to"]) ** 0.5
            yield {"place": place, "positions": _range(row["from"], row["to"]), **_loss(row, "")}


def _frequencies(result: Result, found: Numbers) -> Iterable[Row]:
    for row in found["by_frequency"]:
        prefix = "pseudo_" if "pseudo_nats_per_token" in row else ""
        if row[f"{prefix}nats_per_token"] is not None:
            yield {"count": _range(row["from"], row["to"]), "share": row["share"], **_loss(row, prefix)}


def _loss(row: Numbers, prefix: str) -> Row:
    loss = float(row[f"{prefix}nats_per_token"])
    low, high = row["interval_over_windows"] or (loss, loss)
    return {"loss": loss, "low": float(low), "high": float(high)}


def _range(low: int, high: int) -> str:
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
