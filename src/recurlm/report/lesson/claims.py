"""What the lesson claims, the figure of each variant that tests it, and a verdict that follows from the figures.

A verdict is one of four: `holds`; `by little`, where the figures point the lesson's way and differ by less than the
margin named here; `does not hold`; and `not shown`, where the figures that it needs are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from recurlm.report.results import Result, Results
from recurlm.report.tables import NONE, Cell, Table

HOLDS, LITTLE, NOT, NOT_SHOWN = "holds", "by little", "does not hold", "not shown"
FARTHER = 1.5  # times as far counts as a longer memory
FASTER = 1.1  # times as many tokens/s count as faster
LOWER = 0.01  # the fraction by which a loss or a perplexity has to fall
CONSTANT = 1.1  # an exponent of seconds ∝ lengthᵖ up to which the cost of a token counts as constant
NEVER = float("inf")  # no k within reach was enough

Values = dict[str, Any]  # variant → its value, of those that have one


@dataclass(frozen=True)
class Claim:
    """A sentence of the lesson; `timed` where its figures are timings of this machine."""

    claim: str
    measure: str
    read: Callable[[Result], Any]  # a value, or None
    show: Callable[[Any, Result], str]
    judge: Callable[[Values, Mapping[str, Result]], str]
    timed: bool = False

    def values(self, results: Results) -> Values:
        values = {result.name: _read_or_none(self.read, result) for result in results.variants}
        return {name: value for name, value in values.items() if value is not None}

    def row(self, results: Results) -> tuple[str, ...]:
        """The claim, how it was measured, a figure of each variant, and the verdict."""
        values, by_name = self.values(results), {result.name: result for result in results.variants}
        figures = (
            _read_or_none(lambda result: self.show(values[result.name], result), result) or NONE
            for result in results.variants
        )
        return (self.claim, self.measure, *figures, self.judge(values, by_name))


def table(results: Results, timed: bool | None = None) -> Table:
    """All claims; or only those whose figures are timings, or are not."""
    chosen = [claim for claim in CLAIMS if timed is None or claim.timed == timed]
    heads = ("claim", "measured as", *(result.name for result in results.variants), "verdict")
    return Table(heads, tuple(tuple(map(Cell, claim.row(results))) for claim in chosen), words=2)


def _read_or_none(read: Callable[[Result], Any], result: Result) -> Any:
    """A figure; None where its file is missing or has another shape, which the section's gaps name."""
    try:
        return read(result)
    except (KeyError, TypeError, ValueError, IndexError, AttributeError, ZeroDivisionError):
        return None


def _by_gates(values: Values, variants: Mapping[str, Result]) -> dict[int, list[float]]:
    """Gates of the cell → the values of the left-to-right variants with so many."""
    groups: dict[int, list[float]] = {}
    for name, value in values.items():
        gates = _read_or_none(_gates, variants[name])
        if gates is not None and not variants[name].objective.pseudo:
            groups.setdefault(gates, []).append(float(value))
    return groups


def _gates(result: Result) -> int:
    return int(result.diagnosis.files["diagnostics"]["lesson"]["gates"])


# Gradients, and memory


def _steps_until_vanished(result: Result) -> float:
    step = result.diagnosis.files["diagnostics"]["lesson"]["gradient_vanished_at_after_training"]
    return NEVER if step is None else float(step)


def _show_steps(step: float, result: Result) -> str:
    reach = max(result.diagnosis.files["diagnostics"]["gradients"]["after_training"]["k"])
    return f"more than {reach}" if step == NEVER else f"{step:,.0f}"


def _vanishes_without_gates(values: Values, variants: Mapping[str, Result]) -> str:
    ungated = _by_gates(values, variants).get(0)
    if not ungated:
        return NOT_SHOWN
    return NOT if max(ungated) == NEVER else HOLDS


def _effective_context(result: Result) -> float:
    tokens = result.diagnosis.files["diagnostics"]["lesson"]["effective_context_tokens"]
    return NEVER if tokens is None else float(tokens)


def _show_context(tokens: float, result: Result) -> str:
    longest = max(row["k"] for row in result.diagnosis.files["diagnostics"]["context"]["cut"])
    return f"more than {longest}" if tokens == NEVER else f"{tokens:,.0f}{result.objective.context_side}"


def _gates_reach_farther(values: Values, variants: Mapping[str, Result]) -> str:
    groups = _by_gates(values, variants)
    ungated = groups.pop(0, [])
    gated = [value for group in groups.values() for value in group]
    if not ungated or not gated:
        return NOT_SHOWN
    if min(gated) <= max(ungated):
        return NOT
    return HOLDS if min(gated) >= FARTHER * max(ungated) else LITTLE


def remembers_more(ungated: list[list[float]], gated: list[list[float]]) -> str:
    """Right answers by seed, without and with gates. It holds where every gated run beats every ungated one."""
    if not ungated or not gated:
        return NOT_SHOWN
    if min(map(fmean, gated)) <= max(map(fmean, ungated)):
        return NOT
    return HOLDS if min(map(min, gated)) > max(map(max, ungated)) else LITTLE


# Speed


def _training_speed(result: Result) -> float | None:
    timings = result.training_timings
    return float(timings["tokens_per_second"]) if timings else None


def _generation_speed(result: Result) -> float | None:
    timings = result.generation_timings
    return float(timings["tokens_per_second"]) if timings else None


def _show_speed(speed: float, _: Result) -> str:
    return f"{speed:,.0f}"


def _more_gates_slower(values: Values, variants: Mapping[str, Result]) -> str:
    groups = [group for _, group in sorted(_by_gates(values, variants).items())]
    if len(groups) < 2:
        return NOT_SHOWN
    ratios = [min(fewer) / max(more) for fewer, more in pairwise(groups)]
    if min(ratios) <= 1:
        return NOT
    return HOLDS if min(ratios) >= FASTER else LITTLE


def _two_directions_faster(values: Values, variants: Mapping[str, Result]) -> str:
    """Each bidirectional variant against the left-to-right ones of its cell."""
    ratios = [
        values[name] / values[other]
        for name in values
        for other in values
        if variants[name].model_config["bidirectional"]
        and not variants[other].model_config["bidirectional"]
        and variants[name].model_config["cell"] == variants[other].model_config["cell"]
    ]
    if not ratios:
        return NOT_SHOWN
    if min(ratios) <= 1:
        return NOT
    return HOLDS if min(ratios) >= FASTER else LITTLE


# Dropout, directions, length


def _best_losses(result: Result) -> tuple[float, float]:
    """The best validation loss of the short runs, without and with dropout."""
    key = result.objective.metric("best_validation_nats_per_token")
    without, with_dropout = result.diagnosis.files["diagnostics"]["overfitting"]["short_runs"]["runs"]
    return float(without[key]), float(with_dropout[key])


def _show_losses(losses: tuple[float, float], result: Result) -> str:
    return f"{losses[0]:.2f} → {losses[1]:.2f} {result.objective.unit('nats')}"


def _lower_everywhere(values: Values, _: Mapping[str, Result]) -> str:
    if not values:
        return NOT_SHOWN
    falls = [1 - after / before for before, after in values.values()]
    if min(falls) >= LOWER:
        return HOLDS
    if min(falls) > 0:
        return LITTLE
    lower = sum(fall > 0 for fall in falls)
    return f"{NOT}: lower in {lower} of {len(falls)}" if lower else NOT


def _output(result: Result) -> tuple[int, int]:
    """Features that the decoder reads, and those of one direction."""
    config = result.model_config
    width = config["embedding_size"] if config["block"] == "residual" else config["hidden_size"]
    one = width * (config["layers"] if config["concat_layers"] else 1)
    return int(result.diagnosis.files["diagnostics"]["lesson"]["output_size"]), int(one)


def _show_output(sizes: tuple[int, int], _: Result) -> str:
    return f"{sizes[0]:,} of {sizes[1]:,}"


def _doubled(values: Values, variants: Mapping[str, Result]) -> str:
    both = [value for name, value in values.items() if variants[name].model_config["bidirectional"]]
    if not both:
        return NOT_SHOWN
    return HOLDS if all(output == 2 * one for output, one in both) else NOT


def _growth(result: Result) -> float | None:
    growth = result.diagnosis.files["timings"]["generation_growth"]
    return None if growth is None else float(growth)


def _show_growth(exponent: float, _: Result) -> str:
    return f"{exponent:.2f}"


def _cost_grows(values: Values, _: Mapping[str, Result]) -> str:
    if not values:
        return NOT_SHOWN
    return HOLDS if min(values.values()) > CONSTANT else NOT


def _with_cache(result: Result) -> tuple[float, float]:
    """Perplexity without and with a neural cache, on the same tokens."""
    cache = result.diagnosis.files["perplexity"]["neural_cache"]
    return float(cache["static_on_the_same_tokens"]["perplexity_per_token"]), float(cache["perplexity_per_token"])


def _show_perplexities(perplexities: tuple[float, float], _: Result) -> str:
    return f"{perplexities[0]:.1f} → {perplexities[1]:.1f}"


VANISHED = "steps back from which on the gradient is below 1 % of that one step back, after training"
LONG = "long sequences need something else"
CLAIMS = (
    Claim("gradients vanish without gates", VANISHED, _steps_until_vanished, _show_steps, _vanishes_without_gates),
    Claim("gates keep a memory longer", VANISHED, _steps_until_vanished, _show_steps, _gates_reach_farther),
    Claim(
        "gates keep a memory longer",
        "effective context, tokens",
        _effective_context,
        _show_context,
        _gates_reach_farther,
    ),
    Claim("more gates, slower", "training, tokens/s", _training_speed, _show_speed, _more_gates_slower, timed=True),
    Claim("more gates, slower", "generation, tokens/s", _generation_speed, _show_speed, _more_gates_slower, timed=True),
    Claim(
        "dropout helps against overfitting",
        "best validation loss of the short runs, without → with",
        _best_losses,
        _show_losses,
        _lower_everywhere,
    ),
    Claim(
        "bidirectional doubles the output",
        "features of one position, of one direction",
        _output,
        _show_output,
        _doubled,
    ),
    Claim(
        "bidirectional trains faster",
        "training, tokens/s, against the same cell left to right",
        _training_speed,
        _show_speed,
        _two_directions_faster,
        timed=True,
    ),
    Claim(LONG, "cost: exponent p of generation time ∝ lengthᵖ", _growth, _show_growth, _cost_grows, timed=True),
    Claim(LONG, "memory: perplexity without → with a neural cache", _with_cache, _show_perplexities, _lower_everywhere),
)
