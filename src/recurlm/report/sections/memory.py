"""Gradient flow, effective context and gates."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from recurlm.report.charts import memory
from recurlm.report.frames import Frame, Row, read_frame
from recurlm.report.objectives import OBJECTIVES
from recurlm.report.results import JsonObject, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import Column, count, decimals, percent, rows_of

FILES = ("data/metrics/diagnostics/<variant>.json",)


def gradients(results: Results) -> Section:
    norms = read_frame(results, "diagnostics", gradient_rows)
    vanished = read_frame(results, "diagnostics", _vanished)
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
            "The gradient norm of one token's loss with respect to the state, or the embedded token, k steps earlier. "
            "On this logarithmic scale a straight line is exponential decay; no training signal comes from beyond it.",
            "“below 1 %” is the first k from which on the norm stays under 1 % of that at k = 1; “—” means never "
            f"within reach. Norms under {memory.FLOOR:g} are not drawn. A cloze model's gradients are those of a "
            "pseudo-loss, and k counts tokens on both of its sides.",
        ),
        table if vanished.rows else None,
        memory.gradient_flow(norms.rows, list(results.params.variants)),
        gaps=norms.gaps,
        sources=(*FILES, "data/report/gradient_flow.csv"),
    )


def gradient_rows(result: Result, diagnostics: JsonObject) -> Iterable[Row]:
    """One row for each k, before and after training."""
    flow = diagnostics["gradients"]
    for moment in ("before training", "after training") if flow else ():
        curve = flow[moment.replace(" ", "_")]
        for k, state, token in zip(curve["k"], curve["state_mean"], curve["input_mean"], strict=True):
            yield {
                "series": result.objective.caption(result.name),
                "moment": moment,
                "k": int(k),
                "state": _number(state),
                "input": _number(token),
            }


def _vanished(_: Result, diagnostics: JsonObject) -> Iterable[Row]:
    if flow := diagnostics["gradients"]:
        after = flow["after_training"]
        first = next((norm for k, norm in zip(after["k"], after["state_mean"], strict=True) if k == 1), None)
        before = flow["before_training"]["vanished_at"]
        yield {"before": before, "after": after["vanished_at"], "first": first, "sides": flow["sides"]}


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def context(results: Results) -> Section:
    cut, beyond = cut_rows(results), read_frame(results, "diagnostics", _beyond)
    contexts = read_frame(results, "diagnostics", _effective_context)
    table = rows_of(
        "variant",
        [(row["variant"], row) for row in contexts.rows],
        (
            Column("effective context, tokens", lambda row: row["tokens"], count, max),
            Column("whole context, tokens", lambda row: row["whole"], count),
            *(
                Column(f"{unit} per token, whole context", _loss_in(unit), decimals(3), min)
                for unit in (objective.unit("nats") for objective in OBJECTIVES)
            ),
        ),
    )
    tolerance = next((row["tolerance"] for row in contexts.rows), 0.0)
    return Section(
        "Effective context",
        (
            "The loss of the same held-out tokens with the context cut to k tokens, or with the context beyond k "
            "tokens shuffled or thinned out (after Khandelwal et al. 2018). The effective context is the shortest cut "
            f"whose loss increases by at most {tolerance:g} nats, the dotted line.",
            f"Shaded: {results.params.diagnose.confidence:.0%} bootstrap intervals over the windows.",
        ),
        table if contexts.rows else None,
        memory.context(cut.rows, beyond.rows, list(results.params.variants), tolerance),
        gaps=cut.gaps,
        sources=(*FILES, "data/report/effective_context.csv"),
    )


def cut_rows(results: Results) -> Frame:
    """The increase of the loss with the context cut to k tokens."""
    return read_frame(results, "diagnostics", lambda _, diagnostics: _increases(diagnostics, "cut"))


def _increases(diagnostics: JsonObject, treatment: str) -> Iterable[Row]:
    for row in (diagnostics["context"] or {}).get(treatment, ()):
        low, high = row["increase_interval"] or (None, None)
        yield {"k": row["k"], "increase": float(row["increase"]), "low": low, "high": high}


def _beyond(_: Result, diagnostics: JsonObject) -> Iterable[Row]:
    for treatment, key in (("shuffled", "shuffled_beyond"), ("thinned out", "dropped_beyond")):
        yield from ({"treatment": treatment, **row} for row in _increases(diagnostics, key))


def _effective_context(result: Result, diagnostics: JsonObject) -> Iterable[Row]:
    if context := diagnostics["context"]:
        yield {
            "tokens": context["effective_context_tokens"],
            "whole": context["context_tokens"],
            result.objective.unit("nats"): context[result.objective.metric("whole_nats_per_token")],
            "tolerance": float(context["tolerance_nats"]),
        }


def _loss_in(unit: str) -> Callable[[Row], Any]:
    return lambda row: row.get(unit)


def gates(results: Results) -> Section:
    activations = read_frame(results, "diagnostics", _activations)
    thresholds = read_frame(results, "diagnostics", _thresholds)
    bounds = next(((f" (below {row['low']:g})", f" (above {row['high']:g})") for row in thresholds.rows), ("", ""))
    without = [row["variant"] for row in thresholds.rows if not row["reported"]]
    table = rows_of(
        "gate",
        [(f"{row['variant']} {row['gate']}", row) for row in activations.rows],
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
            f"Fraction of gate activations on held-out text that are closed{bounds[0]} or open{bounds[1]}, after "
            "Karpathy, Johnson & Fei-Fei 2015. A forget or update gate that stays open preserves its state.",
            *((f"No gates reported: {', '.join(without)}.",) if without else ()),
        ),
        charts=memory.gates(activations.rows, list(results.params.variants)),
        tables=(("Activations of each gate", table),) if activations.rows else (),
        gaps=activations.gaps,
        sources=FILES,
    )


def _thresholds(_: Result, diagnostics: JsonObject) -> Iterable[Row]:
    gates = diagnostics["gates"]
    yield {"reported": gates["reported"], "low": gates["closed_below"], "high": gates["open_above"]}


def _activations(_: Result, diagnostics: JsonObject) -> Iterable[Row]:
    for row in diagnostics["gates"]["rows"]:
        yield {
            "gate": f"{row['layer']} {row['gate']}",
            "mean": row["mean"],
            "closed": float(row["fraction_closed"]),
            "open": float(row["fraction_open"]),
            "always_closed": row["units_always_closed"],
            "always_open": row["units_always_open"],
        }
