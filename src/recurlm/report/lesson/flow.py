"""Loss by position, gate activations, gradient flow and effective context."""

from __future__ import annotations

from typing import Any

from recurlm.report.lesson.cells import number, percent, rows
from recurlm.report.lesson.measured import Measured

STEPS = (2, 5, 10, 20, 50, 100, 200)
TOKENS = (1, *STEPS)
POSITIONS = (1, 4, 16, 64, 192)


def position(measured: Measured) -> str | None:
    """Loss by position in a cold window."""
    scored = [each for each in measured.left_to_right if each.perplexity and each.perplexity["by_position"]]
    if not scored:
        return None
    shown = [row for row in (scored[0].perplexity or {})["by_position"] if row["from"] in POSITIONS]
    heads = ("token of the window", *(_span(row) for row in shown))
    cells = []
    for variant in scored:
        losses = {row["from"]: row["nats_per_token"] for row in (variant.perplexity or {})["by_position"]}
        cells.append((variant.name, *(number(losses.get(row["from"]), ".2f") for row in shown)))
    return rows(heads, cells)


def cold(measured: Measured) -> str | None:
    """What it costs to begin with an empty state: the loss at a window's first token and at its last ones."""
    scored = [each for each in measured.left_to_right if each.perplexity and each.perplexity["by_position"]]
    if not scored:
        return None
    spans = []
    for variant in scored:
        shown = [row for row in (variant.perplexity or {})["by_position"] if row["from"] in POSITIONS]
        first, last = shown[0], shown[-1]
        losses = (number(row["nats_per_token"], ".2f") for row in (first, last))
        spans.append(f"{variant.name} {' against '.join(losses)}")
    return (
        "How much a lost prompt may cost, in nats a token, on the test plays: the loss at the first token that a model "
        f"reads with an empty state, against that at tokens {_span(last)} of the same windows: {'; '.join(spans)}."
    )


def _span(row: dict[str, Any]) -> str:
    return f"{row['from']}" if row["from"] == row["to"] else f"{row['from']} to {row['to']}"


def gates(measured: Measured) -> str | None:
    """Mean activation of each gate on validation text, and how often it is closed or open."""
    heads = ("variant", "layer", "gate", "mean", "closed", "open")
    cells = [
        (
            variant.name,
            row["layer"].removeprefix("layer"),
            row["gate"],
            number(row["mean"], ".2f"),
            percent(row["fraction_closed"]),
            percent(row["fraction_open"]),
        )
        for variant in measured.left_to_right
        for row in (variant.diagnostics or {}).get("gates", {}).get("rows", ())
    ]
    return rows(heads, cells)


def gradients(measured: Measured) -> str | None:
    """The gradient norm k steps back, as a percentage of that one step back."""
    heads = ("variant", "", *(f"{k} back" for k in STEPS))
    cells = []
    for variant in measured.variants.values():
        flow = (variant.diagnostics or {}).get("gradients") or {}
        for moment in ("before_training", "after_training") if flow else ():
            curve = flow[moment]
            norms = dict(zip(curve["k"], curve["state_mean"], strict=True))
            ratios = (norms[k] / norms[1] if norms.get(1) and k in norms else None for k in STEPS)
            cells.append((variant.name, moment.replace("_", " "), *(percent(ratio, ".2g") for ratio in ratios)))
    return rows(heads, cells)


def context(measured: Measured) -> str | None:
    """The increase of the loss with the context cut to k tokens, or shuffled beyond k tokens."""
    heads, cells = ("variant", "context", *(f"k = {k}" for k in TOKENS)), []
    for variant in measured.variants.values():
        treatments = (variant.diagnostics or {}).get("context") or {}
        for key, name in (("cut", "cut to k"), ("shuffled_beyond", "shuffled beyond k")) if treatments else ():
            increases = {row["k"]: row["increase"] for row in treatments[key]}
            cells.append((variant.name, name, *(number(increases.get(k), "+.3f") for k in TOKENS)))
    return rows(heads, cells)
