"""Speed, as one machine measured it, and whether the lesson's order of speeds holds on it."""

from __future__ import annotations

from typing import Any

from recurlm.report.lesson.cells import number, rows
from recurlm.report.lesson.measured import Measured, Variant
from recurlm.report.tables import NONE

ORDER = {"rnn": "fast", "gru": "medium", "lstm": "slow"}  # fastest first


def _trains(one: Variant) -> Any:
    return (one.result.training or {}).get("tokens_per_second")


def _writes(one: Variant) -> Any:
    return (one.result.generation or {}).get("tokens_per_second")


def speed(measured: Measured) -> str | None:
    """Tokens a second of each variant, and a sentence that compares them with the lesson's words."""
    known = [one for one in measured.variants.values() if _trains(one) or _writes(one)]
    heads = ("variant", "the lesson says", "training, tokens/s", "writing (ONNX, fp32), tokens/s", "trained on")
    found = [
        (one.name, ORDER.get(one.name, NONE), number(_trains(one), ",.0f"), number(_writes(one), ",.0f"), _where(one))
        for one in known
    ]
    table = rows(heads, found)
    judged = [_verdict(measured, "training", _trains), _verdict(measured, "writing", _writes)]
    return table and "\n\n".join([table, " ".join(filter(None, judged))]).rstrip()


def _where(one: Variant) -> str:
    training = one.result.training
    return f"{training['device']}, {training['precision']}, threads: {training['threads']}" if training else NONE


def _verdict(measured: Measured, what: str, value: Any) -> str:
    found = measured.values(tuple(ORDER), value)
    if found is None:
        return ""
    holds = found["rnn"] > found["gru"] > found["lstm"]
    fastest = sorted(found, key=lambda name: -found[name])
    order = ", ".join(fastest)
    if holds:
        return f"In {what} the lesson's order holds on this machine: {order}, the fastest first."
    return f"In {what} the lesson's order does not hold on this machine: the fastest first, it is {order}."


def growth(measured: Measured) -> str | None:
    """How seconds grow with the length: 1 is in proportion to it."""
    known = [one for one in measured.variants.values() if one.speed]
    heads = ("variant", "training: exponent", "writing: exponent", "writing, tokens/s by length (PyTorch, 1 row)")
    found = [
        (
            one.name,
            number((one.speed or {})["training_growth"], ".2f"),
            number((one.speed or {})["generation_growth"], ".2f"),
            "; ".join(f"{row['tokens']:,}: {row['tokens_per_second']:,.0f}" for row in (one.speed or {})["generation"])
            or NONE,
        )
        for one in known
    ]
    return rows(heads, found)
