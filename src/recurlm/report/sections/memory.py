"""Gradient flow, effective context and gates."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from recurlm.report.charts import memory
from recurlm.report.found import Gathered, Row, gather
from recurlm.report.results import Numbers, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import Column, count, decimals, percent, rows_of

FILES = ("data/metrics/diagnostics/<variant>.json",)


def gradients(results: Results) -> Section:
    found = gather(results, "diagnostics", gradient_rows)
    vanished = gather(results, "diagnostics", _vanished)
    table = rows_of(
        "variant",
        [(row["variant"], row) for row in vanished.rows],
        (
            Column("below 1 % at k, before training", lambda row: row["before"], count),
            Column("below 1 % at k, after training", lambda row: row["after"], count),
            Column("norm at k = 1, after training", lambda row: row["first"], decimals(3)),
            Column("sides", lambda row: row["sides"], count),
        ),
    )
    return Section(
        "Gradient flow",
        (
            "How much the loss of one token still depends on what the model read k tokens before. A norm that falls on "
            "a straight line falls exponentially: training cannot learn from what lies beyond its end.",
            "“below 1 %” is the first k from which on the norm stays under a hundredth of that at k = 1; “—” means "
            f"never within reach. Norms under {memory.FLOOR:g} are not drawn. A cloze model's gradients are those of a "
            "pseudo-loss, and k counts tokens on both of its sides.",
        ),
        table if vanished.rows else None,
        memory.gradient_flow(found.rows, list(results.params.variants)),
        gaps=found.gaps,
        sources=(*FILES, "data/report/gradient_flow.csv"),
    )


def gradient_rows(result: Result, found: Numbers) -> Iterable[Row]:
    """One row for each k, before and after training."""
    flow = found["gradients"]
    for moment in ("before training", "after training") if flow else ():
        block = flow[moment.replace(" ", "_")]
        for k, state, token in zip(block["k"], block["state_mean"], block["input_mean"], strict=True):
            yield {
                "series": result.name if result.causal else f"{result.name} (cloze, both sides)",
                "moment": moment,
                "k": int(k),
                "state": _number(state),
                "input": _number(token),
            }


def _vanished(_: Result, found: Numbers) -> Iterable[Row]:
    if flow := found["gradients"]:
        after = flow["after_training"]
        first = next((norm for k, norm in zip(after["k"], after["state_mean"], strict=True) if k == 1), None)
        before = flow["before_training"]["vanished_at"]
        yield {"before": before, "after": after["vanished_at"], "first": first, "sides": flow["sides"]}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def context(results: Results) -> Section:
    cut, beyond = cut_rows(results), gather(results, "diagnostics", _beyond)
    facts = gather(results, "diagnostics", _effective)
    table = rows_of(
        "variant",
        [(row["variant"], row) for row in facts.rows],
        (
            Column("effective context, tokens", lambda row: row["tokens"], count, max),
            Column("whole context, tokens", lambda row: row["whole"], count),
            Column("nats per token, whole context", lambda row: row["loss"], decimals(3), min),
            Column("pseudo-nats per token", lambda row: row["pseudo"], decimals(3), min),
        ),
    )
    tolerance = next((row["tolerance"] for row in facts.rows), 0.0)
    return Section(
        "Effective context",
        (
            "The loss of the same held-out tokens as their context is cut to k tokens, and as all that lies beyond k "
            "tokens is shuffled or thinned out (after Khandelwal et al. 2018). The effective context is the shortest "
            f"cut that costs at most {tolerance:g} nats, the dotted line.",
            f"Shaded: {results.params.diagnose.confidence:.0%} bootstrap intervals over the windows.",
        ),
        table if facts.rows else None,
        memory.context(cut.rows, beyond.rows, list(results.params.variants), tolerance),
        gaps=cut.gaps,
        sources=(*FILES, "data/report/effective_context.csv"),
    )


def cut_rows(results: Results) -> Gathered:
    """The loss's increase with the context cut to k tokens."""
    return gather(results, "diagnostics", lambda _, found: _increases(found, "cut"))


def _increases(found: Numbers, block: str) -> Iterable[Row]:
    for row in (found["context"] or {}).get(block, ()):
        low, high = row["increase_interval"] or (None, None)
        yield {"k": row["k"], "increase": float(row["increase"]), "low": low, "high": high}


def _beyond(_: Result, found: Numbers) -> Iterable[Row]:
    for treatment, block in (("shuffled", "shuffled_beyond"), ("thinned out", "dropped_beyond")):
        yield from ({"treatment": treatment, **row} for row in _increases(found, block))


def _effective(result: Result, found: Numbers) -> Iterable[Row]:
    if used := found["context"]:
        loss = used["whole_nats_per_token"]
        yield {
            "tokens": used["effective_context_tokens"],
            "whole": used["context_tokens"],
            "loss": loss if result.causal else None,
            "pseudo": None if result.causal else loss,
            "tolerance": float(used["tolerance_nats"]),
        }


def gates(results: Results) -> Section:
    found = gather(results, "diagnostics", _gates)
    told = gather(results, "diagnostics", _told)
    bounds = next(((f" (below {row['low']:g})", f" (above {row['high']:g})") for row in told.rows), ("", ""))
    without = [row["variant"] for row in told.rows if not row["told"]]
    table = rows_of(
        "gate",
        [(f"{row['variant']} {row['gate']}", row) for row in found.rows],
        (
            Column("mean activation", lambda row: row["mean"], decimals(2)),
            Column("closed", lambda row: row["closed"], percent),
            Column("open", lambda row: row["open"], percent),
            Column("units always closed", lambda row: row["always_closed"], percent),
            Column("units always open", lambda row: row["always_open"], percent),
        ),
    )
    return Section(
        "Gates",
        (
            f"How often a gate is shut{bounds[0]} or wide open{bounds[1]} while held-out text is read, after Karpathy, "
            "Johnson & Fei-Fei 2015. A forget or update gate that stays open keeps what it holds.",
            *((f"No gates to show: {', '.join(without)}.",) if without else ()),
        ),
        charts=memory.gates(found.rows, list(results.params.variants)),
        tables=(("Activations of each gate", table),) if found.rows else (),
        gaps=found.gaps,
        sources=FILES,
    )


def _told(_: Result, found: Numbers) -> Iterable[Row]:
    block = found["gates"]
    yield {"told": block["told"], "low": block["closed_below"], "high": block["open_above"]}


def _gates(_: Result, found: Numbers) -> Iterable[Row]:
    for row in found["gates"]["rows"]:
        yield {
            "gate": f"{row['layer']} {row['gate']}",
            "mean": row["mean"],
            "closed": float(row["fraction_closed"]),
            "open": float(row["fraction_open"]),
            "always_closed": row["units_always_closed"],
            "always_open": row["units_always_open"],
        }
