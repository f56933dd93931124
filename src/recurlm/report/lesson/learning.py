"""Overfitting, and what helps a model beyond what its state holds."""

from __future__ import annotations

from typing import Any

from recurlm.report.lesson.cells import number, rows
from recurlm.report.lesson.measured import Measured, Variant


def _pair(one: Variant) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """The short runs without and with dropout, if both ended well."""
    if not one.diagnostics:
        return None
    without, with_dropout = one.diagnostics["overfitting"]["short_runs"]["runs"]
    return None if without["problem"] or with_dropout["problem"] else (without, with_dropout)


def overfitting(measured: Measured) -> str | None:
    """A row a variant: the gap and the best validation loss, without and with dropout; and of the whole model."""
    heads = (
        "variant",
        "gap without dropout",
        "gap with dropout",
        "best validation loss without",
        "best validation loss with",
        "gap of the whole model",
    )
    found = []
    for one in measured.variants.values():
        if not one.diagnostics:
            continue
        pair = _pair(one)
        cells = [run[key] for key in ("gap", "best_validation_nats_per_token") for run in pair] if pair else [None] * 4
        curve = one.diagnostics["overfitting"]["learning_curve"]
        found.append((one.name, *(number(cell, ".2f") for cell in [*cells, curve[-1]["gap"] if curve else None])))
    return rows(heads, found)


def dropout(measured: Measured) -> str | None:
    """In how many variants it helped."""
    pairs = [pair for one in measured.variants.values() if (pair := _pair(one))]
    if not pairs:
        return None
    smaller = sum(with_it["gap"] < without["gap"] for without, with_it in pairs)
    key = "best_validation_nats_per_token"
    better = sum(with_it[key] < without[key] for without, with_it in pairs)
    return (
        f"In the short runs dropout made the gap smaller in {smaller} of {len(pairs)} variants, and the best loss on "
        f"validation text lower in {better} of {len(pairs)}."
    )


def adaptive(measured: Measured) -> str | None:
    """Perplexity with a memory outside the state, and with weights that go on learning; each beside its own static."""
    heads = ("variant", "alone", "with a neural cache", "alone, on a part", "the same part, learning as it reads")
    found = []
    for one in measured.causal:
        cache, dynamic = ((one.perplexity or {}).get(name) for name in ("neural_cache", "dynamic_evaluation"))
        cells = [
            value
            for block in (cache, dynamic)
            for value in (
                (block["static_on_the_same_tokens"]["perplexity_per_token"], block["perplexity_per_token"])
                if block
                else (None, None)
            )
        ]
        if one.perplexity:
            found.append((one.name, *(number(cell, ".1f") for cell in cells)))
    return rows(heads, found)
