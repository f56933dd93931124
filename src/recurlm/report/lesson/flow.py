"""What a state holds and passes on: loss by what was read before, gates, gradients, and what a context is worth."""

from __future__ import annotations

from typing import Any

from recurlm.report.lesson.cells import number, percent, rows
from recurlm.report.lesson.measured import Measured

STEPS = (2, 5, 10, 20, 50, 100, 200)
TOKENS = (1, *STEPS)
POSITIONS = (1, 4, 16, 64, 192)


def position(measured: Measured) -> str | None:
    """Loss by how many tokens were read before, from a zero state."""
    known = [one for one in measured.causal if one.perplexity and one.perplexity["by_position"]]
    if not known:
        return None
    shown = [row for row in (known[0].perplexity or {})["by_position"] if row["from"] in POSITIONS]
    heads = ("token of the window", *(_span(row) for row in shown))
    found = []
    for one in known:
        losses = {row["from"]: row["nats_per_token"] for row in (one.perplexity or {})["by_position"]}
        found.append((one.name, *(number(losses.get(row["from"]), ".2f") for row in shown)))
    return rows(heads, found)


def _span(row: dict[str, Any]) -> str:
    return f"{row['from']}" if row["from"] == row["to"] else f"{row['from']} to {row['to']}"


def gates(measured: Measured) -> str | None:
    """How far each gate was open while validation text was read."""
    heads = ("variant", "layer", "gate", "mean", "closed", "open")
    found = [
        (
            one.name,
            row["layer"].removeprefix("layer"),
            row["gate"],
            number(row["mean"], ".2f"),
            percent(row["fraction_closed"]),
            percent(row["fraction_open"]),
        )
        for one in measured.causal
        for row in (one.diagnostics or {}).get("gates", {}).get("rows", ())
    ]
    return rows(heads, found)


def gradients(measured: Measured) -> str | None:
    """What is left of the gradient k steps back, as a share of that one step back."""
    heads = ("variant", "", *(f"{k} back" for k in STEPS))
    found = []
    for one in measured.variants.values():
        block = (one.diagnostics or {}).get("gradients")
        for when in ("before_training", "after_training") if block else ():
            curve = block[when] if block else {}
            norms = dict(zip(curve["k"], curve["state_mean"], strict=True))
            cells = (norms[k] / norms[1] if norms.get(1) and k in norms else None for k in STEPS)
            found.append((one.name, when.replace("_", " "), *(percent(cell, ".2g") for cell in cells)))
    return rows(heads, found)


def context(measured: Measured) -> str | None:
    """What it costs to cut the context to k tokens, or to shuffle what lies beyond them."""
    known = [one for one in measured.variants.values() if (one.diagnostics or {}).get("context")]
    heads, found = ("variant", "the context", *(f"k = {k}" for k in TOKENS)), []
    for one in known:
        for how, name in (("cut", "cut to k"), ("shuffled_beyond", "shuffled beyond k")):
            costs = {row["k"]: row["increase"] for row in (one.diagnostics or {})["context"][how]}
            found.append((one.name, name, *(number(costs.get(k), "+.3f") for k in TOKENS)))
    return rows(heads, found)
