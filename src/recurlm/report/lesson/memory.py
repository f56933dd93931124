"""Gates and memory: the lesson's table with what was measured in place of its words, and whether its words hold."""

from __future__ import annotations

from collections.abc import Callable

from recurlm.report.lesson.cells import number, rows, score
from recurlm.report.lesson.measured import Measured, Variant
from recurlm.report.tables import NONE

COMPARED = ("rnn", "gru", "lstm")
CLEARLY = 1.5  # times as far: less is little
SAYS = {"rnn": "short", "gru": "long", "lstm": "long"}


def comparison(measured: Measured) -> str | None:
    """A row a variant: what it is, how far it remembers, how well it predicts."""
    heads = (
        "variant",
        "gates",
        "layers × hidden",
        "numbers in its state",
        "the lesson says of its memory",
        "context that it uses, tokens",
        "gradient below 1 %, steps back",
        "perplexity per token",
    )
    found = [
        (
            one.name,
            number(one.lesson["gates"]),
            f"{one.lesson['layers']} × {one.lesson['hidden_size']}",
            number(one.lesson["state_numbers"]),
            SAYS.get(one.name, NONE),
            used(one),
            reach(one),
            number(score(one, "test", "perplexity_per_token"), ".1f"),
        )
        for one in measured.variants.values()
        if one.lesson
    ]
    return rows(heads, found)


def used(one: Variant) -> str:
    """The effective context; of a cloze model on each side."""
    block = (one.diagnostics or {}).get("context")
    if not block:
        return NONE
    value, largest = block["effective_context_tokens"], max((row["k"] for row in block["cut"]), default=0)
    return f"more than {largest}" if value is None else number(value)


def reach(one: Variant) -> str:
    """The distance from which on less than one per cent of the gradient is left, after training."""
    block = (one.diagnostics or {}).get("gradients")
    if not block:
        return NONE
    after = block["after_training"]
    return f"more than {max(after['k'])}" if after["vanished_at"] is None else number(after["vanished_at"])


def verdict(measured: Measured) -> str | None:
    """Whether the RNN's memory is the shortest of the three, by either measure."""
    by_context = _order(measured, "context", "effective_context_tokens")
    by_gradient = _order(measured, "gradients", "gradient_vanished_at_after_training")
    if by_context is None or by_gradient is None:
        return None
    return (
        "The lesson says: short in the RNN, long in the GRU and the LSTM. "
        f"Measured by the context that is used, in tokens: {_listed(measured, used)}, which {_judged(by_context)}. "
        f"By the gradient, in steps: {_listed(measured, reach)}, which {_judged(by_gradient)}."
    )


def _judged(values: dict[str, float]) -> str:
    rnn, gated = values["rnn"], min(values["gru"], values["lstm"])
    if rnn >= gated:
        return "is not what the lesson says"
    return "is what the lesson says" if gated >= CLEARLY * rnn else "is what the lesson says, but by little"


def _order(measured: Measured, block: str, key: str) -> dict[str, float] | None:
    """The measure of each; beyond all that was tried counts as infinite."""

    def value(one: Variant) -> float | None:
        if not (one.diagnostics or {}).get(block):
            return None
        return float("inf") if one.lesson[key] is None else float(one.lesson[key])

    return measured.values(COMPARED, value)


def _listed(measured: Measured, value: Callable[[Variant], str]) -> str:
    return ", ".join(f"{name} {value(measured.variants[name])}" for name in COMPARED)


def sizes(measured: Measured) -> str | None:
    """Units of a layer and weights of the whole model, side by side."""
    found = measured.values(COMPARED, lambda one: one.lesson or None)
    if found is None:
        return None
    listed = (
        f"{name} {row['hidden_size']} units a layer, {row['parameters']:,} weights" for name, row in found.items()
    )
    return f"Here they are: {'; '.join(listed)}."
