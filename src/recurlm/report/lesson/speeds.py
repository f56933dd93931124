"""Training and generation speed on one machine, and whether the lesson's order of speeds holds on it."""

from __future__ import annotations

from typing import Any

from recurlm.report.lesson import claims
from recurlm.report.lesson.cells import number, rows
from recurlm.report.lesson.measured import Measured, Variant
from recurlm.report.markdown import table
from recurlm.report.tables import NONE

ORDER = {"rnn": "fast", "gru": "medium", "lstm": "slow"}  # fastest first


def _training(variant: Variant) -> Any:
    return (variant.result.training_timings or {}).get("tokens_per_second")


def _generation(variant: Variant) -> Any:
    return (variant.result.generation_timings or {}).get("tokens_per_second")


def speed(measured: Measured) -> str | None:
    """Tokens/s of each variant, and a sentence that compares their order with the lesson's."""
    timed = [variant for variant in measured.variants.values() if _training(variant) or _generation(variant)]
    heads = ("variant", "the lesson says", "training, tokens/s", "generation (ONNX, fp32), tokens/s", "trained on")
    cells = [
        (
            variant.name,
            ORDER.get(variant.name, NONE),
            number(_training(variant), ",.0f"),
            number(_generation(variant), ",.0f"),
            _device(variant),
        )
        for variant in timed
    ]
    timings = rows(heads, cells)
    verdicts = [_verdict(measured, "training", _training), _verdict(measured, "generation", _generation)]
    return timings and "\n\n".join([timings, " ".join(filter(None, verdicts))]).rstrip()


def _device(variant: Variant) -> str:
    training = variant.result.training_timings
    return f"{training['device']}, {training['precision']}, threads: {training['threads']}" if training else NONE


def _verdict(measured: Measured, work: str, value: Any) -> str:
    speeds = measured.values(tuple(ORDER), value)
    if speeds is None:
        return ""
    holds = speeds["rnn"] > speeds["gru"] > speeds["lstm"]
    order = ", ".join(sorted(speeds, key=lambda name: -speeds[name]))
    if holds:
        return f"In {work} the lesson's order holds on this machine: {order}, the fastest first."
    return f"In {work} the lesson's order does not hold on this machine: the fastest first, it is {order}."


def growth(measured: Measured) -> str | None:
    """The exponent p of seconds ∝ lengthᵖ, for training and generation."""
    heads = (
        "variant",
        "training: exponent",
        "generation: exponent",
        "generation, tokens/s by length (PyTorch, batch size 1)",
    )
    speeds = {variant.name: variant.speed for variant in measured.variants.values() if variant.speed}
    cells = [
        (
            name,
            number(speed["training_growth"], ".2f"),
            number(speed["generation_growth"], ".2f"),
            "; ".join(f"{row['tokens']:,}: {row['tokens_per_second']:,.0f}" for row in speed["generation"]) or NONE,
        )
        for name, speed in speeds.items()
    ]
    return rows(heads, cells)


def directions(measured: Measured) -> str | None:
    """Training steps with one direction and with two: what benchmarks/bidirectional.py measured."""
    if not measured.directions:
        return None
    heads = ("two directions with", "hidden size", "outputs", "parameters", "ms a training step", "ratio")
    cells = [
        (
            name,
            *(_pair(row[key]) for key in ("hidden_size", "outputs", "parameters")),
            _pair(row["milliseconds"], ".1f"),
            number(row["ratio"], ".2f"),
        )
        for name, row in measured.directions["training"].items()
    ]
    return rows(heads, cells)


def _pair(values: list[float], form: str = ",") -> str:
    return " → ".join(number(value, form) for value in values)


def claims_of_timings(measured: Measured) -> str | None:
    """The claims about time; None on a machine that trained or ran none of these models."""
    timed = any(_training(variant) or _generation(variant) or variant.speed for variant in measured.variants.values())
    return table(claims.table(measured.results, timed=True)) if timed else None
