"""Overfitting and dropout; neural cache and dynamic evaluation."""

from __future__ import annotations

from typing import Any

from recurlm.report.lesson.cells import number, rows
from recurlm.report.lesson.measured import Measured, Variant

BEST = "best_validation_nats_per_token"


def _pair(variant: Variant) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The short runs without and with dropout; None if one of them failed."""
    if not variant.diagnostics:
        return None
    without, with_dropout = variant.diagnostics["overfitting"]["short_runs"]["runs"]
    return None if without["problem"] or with_dropout["problem"] else (without, with_dropout)


def overfitting(measured: Measured) -> str | None:
    """One row per variant: gap and best validation loss of the short runs, and the gap of the full model."""
    heads = (
        "variant",
        "gap without dropout",
        "gap with dropout",
        "best validation loss without dropout",
        "best validation loss with dropout",
        "gap of the full model",
    )
    cells = []
    for variant in measured.variants.values():
        if not variant.diagnostics:
            continue
        pair = _pair(variant)
        best = variant.result.objective.metric(BEST)
        values = [run[key] for key in ("gap", best) for run in pair] if pair else [None] * 4
        curve = variant.diagnostics["overfitting"]["learning_curve"]
        values.append(curve[-1]["gap"] if curve else None)
        cells.append((variant.name, *(number(value, ".2f") for value in values)))
    return rows(heads, cells)


def dropout(measured: Measured) -> str | None:
    """The number of variants in which dropout reduced the gap, and the best validation loss."""
    pairs = [(variant, pair) for variant in measured.variants.values() if (pair := _pair(variant))]
    if not pairs:
        return None
    smaller = sum(with_dropout["gap"] < without["gap"] for _, (without, with_dropout) in pairs)
    better = 0
    for variant, (without, with_dropout) in pairs:
        key = variant.result.objective.metric(BEST)
        better += with_dropout[key] < without[key]
    return (
        f"In the short runs dropout reduced the gap in {smaller} of {len(pairs)} variants, and the best validation "
        f"loss in {better} of {len(pairs)}."
    )


def adaptive(measured: Measured) -> str | None:
    """Perplexity with a neural cache and with dynamic evaluation, each beside the static score of the same tokens."""
    heads = ("variant", "static", "neural cache", "static, on a part", "dynamic evaluation, on the same part")
    cells = []
    for variant in measured.left_to_right:
        cache, dynamic = ((variant.perplexity or {}).get(name) for name in ("neural_cache", "dynamic_evaluation"))
        values = [
            value
            for scores in (cache, dynamic)
            for value in (
                (scores["static_on_the_same_tokens"]["perplexity_per_token"], scores["perplexity_per_token"])
                if scores
                else (None, None)
            )
        ]
        if variant.perplexity:
            cells.append((variant.name, *(number(value, ".1f") for value in values)))
    return rows(heads, cells)
