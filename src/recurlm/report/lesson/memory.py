"""Gates and memory: the lesson's table with measurements, and whether they agree with the lesson."""

from __future__ import annotations

from collections.abc import Callable
from statistics import fmean

from recurlm.report.lesson import claims
from recurlm.report.lesson.cells import number, percent, rows, score
from recurlm.report.lesson.measured import Measured, Variant
from recurlm.report.markdown import table
from recurlm.report.tables import NONE, Cell, Table

COMPARED = ("rnn", "gru", "lstm")
CLEARLY = 1.5  # times as far
SAYS = {"rnn": "short", "gru": "long", "lstm": "long"}


def comparison(measured: Measured) -> str | None:
    """One row per variant: size, memory and perplexity."""
    heads = (
        "variant",
        "gates",
        "layers × hidden",
        "state size",
        "memory, says the lesson",
        "effective context, tokens",
        "gradient below 1 %, steps back",
        "perplexity per token",
    )
    cells = [
        (
            variant.name,
            number(variant.lesson["gates"]),
            f"{variant.lesson['layers']} × {variant.lesson['hidden_size']}",
            number(variant.lesson["state_size"]),
            SAYS.get(variant.name, NONE),
            effective_context(variant),
            gradient_reach(variant),
            number(score(variant, "test", "perplexity_per_token"), ".1f"),
        )
        for variant in measured.variants.values()
        if variant.lesson
    ]
    return rows(heads, cells)


def effective_context(variant: Variant) -> str:
    """The effective context in tokens; of a cloze model on either side."""
    context = (variant.diagnostics or {}).get("context")
    if not context:
        return NONE
    value, largest = context["effective_context_tokens"], max((row["k"] for row in context["cut"]), default=0)
    return f"more than {largest}" if value is None else number(value)


def gradient_reach(variant: Variant) -> str:
    """The first k from which on the gradient norm is below 1 % of that at k = 1, after training."""
    gradients = (variant.diagnostics or {}).get("gradients")
    if not gradients:
        return NONE
    after = gradients["after_training"]
    return f"more than {max(after['k'])}" if after["vanished_at"] is None else number(after["vanished_at"])


def verdict(measured: Measured) -> str | None:
    """Whether the RNN's memory is the shortest of the three, by effective context and by gradient."""
    by_context = _order(measured, "context", "effective_context_tokens")
    by_gradient = _order(measured, "gradients", "gradient_vanished_at_after_training")
    if by_context is None or by_gradient is None:
        return None
    return (
        "The lesson says: short in the RNN, long in the GRU and the LSTM. "
        f"Measured by the effective context, in tokens: {_listed(measured, effective_context)}, which "
        f"{_judged(by_context)}. "
        f"By the gradient, in steps: {_listed(measured, gradient_reach)}, which {_judged(by_gradient)}."
    )


def _judged(values: dict[str, float]) -> str:
    rnn, gated = values["rnn"], min(values["gru"], values["lstm"])
    if rnn >= gated:
        return "is not what the lesson says"
    return "is what the lesson says" if gated >= CLEARLY * rnn else "is what the lesson says, but by little"


def _order(measured: Measured, part: str, key: str) -> dict[str, float] | None:
    """Variant → the measure; infinite where it exceeds the largest k."""

    def value(variant: Variant) -> float | None:
        if not (variant.diagnostics or {}).get(part):
            return None
        return float("inf") if variant.lesson[key] is None else float(variant.lesson[key])

    return measured.values(COMPARED, value)


def _listed(measured: Measured, value: Callable[[Variant], str]) -> str:
    return ", ".join(f"{name} {value(measured.variants[name])}" for name in COMPARED)


def remember(measured: Measured) -> str | None:
    """Right answers of benchmarks/remember.py by delay: the mean over seeds, the lowest and the highest."""
    if not measured.remember:
        return None
    variants = measured.remember["variants"]
    delays = [row["delay"] for row in next(iter(variants.values()))["accuracy"]]
    heads = ("variant", "hidden size", "parameters", "learning rate", *(f"k = {delay}" for delay in delays))
    cells = [
        (
            name,
            number(variant["hidden_size"]),
            number(variant["parameters"]),
            f"{variant['learning_rate']:g}",
            *(_spread(row["by_seed"]) for row in variant["accuracy"]),
        )
        for name, variant in variants.items()
    ]
    return rows(heads, cells)


def _spread(accuracies: list[float]) -> str:
    """The mean, and the lowest and the highest where they differ from it."""
    mean, lowest, highest = (percent(value) for value in (fmean(accuracies), min(accuracies), max(accuracies)))
    return mean if lowest == highest else f"{mean} ({lowest.removesuffix(' %')}–{highest.removesuffix(' %')})"


def sizes(measured: Measured) -> str | None:
    """Hidden sizes and parameter counts, side by side."""
    lessons = measured.values(COMPARED, lambda variant: variant.lesson or None)
    if lessons is None:
        return None
    listed = (
        f"{name} hidden size {row['hidden_size']}, {row['parameters']:,} parameters" for name, row in lessons.items()
    )
    return f"Here they are: {'; '.join(listed)}."


def claims_of_metrics(measured: Measured) -> str | None:
    """The claims that are no matter of time, and that on memory once more, by benchmarks/remember.py."""
    if not any(variant.diagnostics for variant in measured.variants.values()):
        return None
    content = claims.table(measured.results, timed=False)
    return table(Table(content.heads, content.rows + _remembered(measured), words=2))


def _remembered(measured: Measured) -> tuple[tuple[Cell, ...], ...]:
    """A row by the right answers after the longest delay of training."""
    if not measured.remember:
        return ()
    delay = measured.remember["train_delay"]
    answers = {
        name: at["by_seed"]
        for name, variant in measured.remember["variants"].items()
        for at in variant["accuracy"]
        if at["delay"] == delay
    }
    figures = (_spread(answers[name]) if name in answers else NONE for name in measured.variants)
    gates = {name: variant.lesson["gates"] for name, variant in measured.variants.items() if variant.lesson}
    ungated = [right for name, right in answers.items() if gates.get(name) == 0]
    gated = [right for name, right in answers.items() if gates.get(name)]
    measure = f"right answers after {delay} tokens of noise, mean (lowest–highest of the seeds)"
    row = ("gates keep a memory longer", measure, *figures, claims.remembers_more(ungated, gated))
    return (tuple(map(Cell, row)),)
