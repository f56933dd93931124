"""What the lesson claims, the figure of each variant that tests it, and a verdict that follows from the figures.

A verdict is one of four: `holds`; `by little`, where the figures point the lesson's way and differ by less than the
margin named here; `does not hold`; and `not shown`, where the figures that it needs are missing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from recurlm.report.metrics import Metrics
from recurlm.report.results import JsonObject, Result, Results
from recurlm.report.tables import NONE, Table, rows_of, show

HOLDS, LITTLE, NOT, NOT_SHOWN = "holds", "by little", "does not hold", "not shown"
FARTHER = 1.5  # times as far counts as a longer memory
FASTER = 1.1  # times as many tokens/s count as faster
LOWER = 0.01  # the fraction by which a loss or a perplexity has to fall
CONSTANT = 1.1  # an exponent of seconds ∝ lengthᵖ up to which the cost of a token counts as constant
NEVER = float("inf")  # no k within reach was enough

Values = dict[str, Any]  # variant → what is compared, of those that have it


@dataclass(frozen=True)
class Claim:
    """A sentence of the lesson; `timed` where its figures are timings of this machine."""

    claim: str
    measure: str
    read: Callable[[Metrics, Result], tuple[Any, str] | None]  # what is compared, and how it is shown
    judge: Callable[[Values, Metrics, Results], str]
    timed: bool = False

    def row(self, results: Results, metrics: Metrics) -> tuple[str, ...]:
        """The claim, how it was measured, a figure of each variant, and the verdict."""
        figures = {result.name: self.read(metrics, result) for result in results.variants}
        values = {name: figure[0] for name, figure in figures.items() if figure}
        shown = (figure[1] if figure else NONE for figure in figures.values())
        return (self.claim, self.measure, *shown, self.judge(values, metrics, results))


def table(results: Results, metrics: Metrics, timed: bool | None = None, tasks: JsonObject | None = None) -> Table:
    """All claims, or only those whose figures are timings, or are not; and by the figures of benchmarks/remember.py."""
    chosen = [claim for claim in CLAIMS if timed is None or claim.timed == timed]
    heads = ("claim", "measured as", *(result.name for result in results.variants), "verdict")
    rows = [claim.row(results, metrics) for claim in chosen]
    if tasks:
        rows.append(_remembered(tasks, results, metrics))
    return rows_of(heads, rows, words=2, caption="What the lesson claims")


def _by_gates(values: Values, metrics: Metrics, results: Results) -> dict[float, list[float]]:
    """Gates of the cell → the values of the left-to-right variants with so many."""
    groups: dict[float, list[float]] = {}
    for result in results.variants:
        gates = metrics.value(result.name, "gates", "lesson")
        if gates is not None and result.name in values and not result.objective.pseudo:
            groups.setdefault(gates, []).append(float(values[result.name]))
    return groups


def _reach(metric: str, protocol: str) -> Callable[[Metrics, Result], tuple[float, str] | None]:
    """A distance of the lesson's block; NEVER where the block has none: it is farther than a protocol's curve."""

    def read(metrics: Metrics, result: Result) -> tuple[float, str] | None:
        if metrics.value(result.name, "gates", "lesson") is None:
            return None
        distance = metrics.value(result.name, metric, "lesson")
        if distance is None:
            return NEVER, f"more than {metrics.rows(protocol, variant=result.name)['at'].max():.0f}"
        return distance, f"{distance:,.0f}{result.objective.context_side if protocol == 'cut' else ''}"

    return read


def _vanishes_without_gates(values: Values, metrics: Metrics, results: Results) -> str:
    return _true_of_all([reach != NEVER for reach in _by_gates(values, metrics, results).get(0, [])])


def _true_of_all(found: list[bool]) -> str:
    if not found:
        return NOT_SHOWN
    return HOLDS if all(found) else NOT


def _gates_reach_farther(values: Values, metrics: Metrics, results: Results) -> str:
    groups = _by_gates(values, metrics, results)
    ungated = groups.pop(0, [])
    gated = [value for group in groups.values() for value in group]
    return times_more([min(gated) / max(ungated)] if ungated and gated else [], FARTHER)


def times_more(ratios: Iterable[float], margin: float) -> str:
    """The verdict on how many times more there is of what the lesson says there is more of."""
    least = min(ratios, default=None)
    if least is None:
        return NOT_SHOWN
    if least >= margin:
        return HOLDS
    return LITTLE if least > 1 else NOT  # ∞ / ∞ is no number, and not more than 1


def _remembers_more(ungated: list[list[float]], gated: list[list[float]]) -> str:
    """Right answers by seed, without and with gates. It holds where every gated run beats every ungated one."""
    if not ungated or not gated:
        return NOT_SHOWN
    if min(map(fmean, gated)) <= max(map(fmean, ungated)):
        return NOT
    return HOLDS if min(map(min, gated)) > max(map(max, ungated)) else LITTLE


def _number(metric: str, protocol: str, form: str = ",.0f") -> Callable[[Metrics, Result], tuple[float, str] | None]:
    def read(metrics: Metrics, result: Result) -> tuple[float, str] | None:
        value = metrics.value(result.name, metric, protocol)
        return None if value is None else (value, format(value, form))

    return read


def _more_gates_slower(values: Values, metrics: Metrics, results: Results) -> str:
    return _slower([group for _, group in sorted(_by_gates(values, metrics, results).items())])


def _slower(groups: list[list[float]]) -> str:
    """Speeds of groups with more and more gates."""
    return times_more([min(fewer) / max(more) for fewer, more in pairwise(groups)], FASTER)


def _two_directions_faster(values: Values, _: Metrics, results: Results) -> str:
    """Each bidirectional variant against the left-to-right ones of its cell."""
    timed = [(values[each.name], each.model_config) for each in results.variants if each.name in values]
    both = [pair for pair in timed if pair[1]["bidirectional"]]
    left_to_right = [pair for pair in timed if not pair[1]["bidirectional"]]
    ratios = [
        speed / other for speed, config in both for other, same in left_to_right if config["cell"] == same["cell"]
    ]
    return times_more(ratios, FASTER)


def _best_losses(metrics: Metrics, result: Result) -> tuple[tuple[float, float], str] | None:
    """The best validation loss of the short runs, without and with dropout."""
    metric = result.objective.metric("best_validation_nats_per_token")
    losses = [*metrics.short_runs(result.name, metric).values()]
    if len(losses) != 2:
        return None
    return (losses[0], losses[1]), f"{losses[0]:.2f} → {losses[1]:.2f} {result.objective.unit('nats')}"


def _lower_everywhere(values: Values, _: Metrics, __: Results) -> str:
    if not values:
        return NOT_SHOWN
    falls = [1 - after / before for before, after in values.values()]
    if min(falls) >= LOWER:
        return HOLDS
    if min(falls) > 0:
        return LITTLE
    lower = sum(fall > 0 for fall in falls)
    return f"{NOT}: lower in {lower} of {len(falls)}" if lower else NOT


def _output(metrics: Metrics, result: Result) -> tuple[tuple[float, int], str] | None:
    """Features that the decoder reads, and those of one direction."""
    config, output = result.model_config, metrics.value(result.name, "output_size", "lesson")
    width = config["embedding_size"] if config["block"] == "residual" else config["hidden_size"]
    one_direction = int(width * (config["layers"] if config["concat_layers"] else 1))
    return None if output is None else ((output, one_direction), f"{output:,.0f} of {one_direction:,}")


def _doubled(values: Values, _: Metrics, results: Results) -> str:
    both = [each.name for each in results.variants if each.name in values and each.model_config["bidirectional"]]
    return _true_of_all([output == 2 * one_direction for output, one_direction in (values[name] for name in both)])


def _cost_grows(values: Values, _: Metrics, __: Results) -> str:
    return _true_of_all([exponent > CONSTANT for exponent in values.values()])


def _with_cache(metrics: Metrics, result: Result) -> tuple[tuple[float, float], str] | None:
    """Perplexity without and with a neural cache, on the same tokens."""
    protocols = ("static for neural_cache", "neural_cache")
    without, cached = (metrics.value(result.name, "perplexity_per_token", protocol) for protocol in protocols)
    return None if without is None or cached is None else ((without, cached), f"{without:.1f} → {cached:.1f}")


def spread(accuracies: list[float]) -> str:
    """The mean, and the lowest and the highest where they differ from it."""
    mean, lowest, highest = (show(each, ".0%") for each in (fmean(accuracies), min(accuracies), max(accuracies)))
    return mean if lowest == highest else f"{mean} ({lowest.removesuffix(' %')}–{highest.removesuffix(' %')})"


def _remembered(tasks: JsonObject, results: Results, metrics: Metrics) -> tuple[str, ...]:
    """The claim on memory by the right answers after the longest delay that was trained with."""
    delay, names = tasks["train_delay"], [result.name for result in results.variants]
    answers = {
        name: accuracy["by_seed"]
        for name, variant in tasks["variants"].items()
        for accuracy in variant["accuracy"]
        if accuracy["delay"] == delay
    }
    gates = {name: metrics.value(name, "gates", "lesson") for name in names}
    ungated = [right for name, right in answers.items() if gates.get(name) == 0]
    gated = [right for name, right in answers.items() if gates.get(name)]
    measure = f"right answers after {delay} tokens of noise, mean (lowest–highest of the seeds)"
    figures = (spread(answers[name]) if name in answers else NONE for name in names)
    return (MEMORY, measure, *figures, _remembers_more(ungated, gated))


def by_comparison(found: JsonObject | None, tasks: JsonObject | None) -> Table:
    """The claims that the comparison and the memory tasks bear on.

    Args:
        found: results.json of the comparison.
        tasks: figures of benchmarks/memory_tasks.py.
    """
    parts = {name: part for name, part in (found or {}).get("variants", {}).items() if name in COMPARED}
    training = {name: part["speed"]["training_tokens_per_second"] for name, part in parts.items()}
    generation = {name: 1e6 / part["speed"]["generation_us_int8"] for name, part in parts.items()}
    dropout = {name: part["settings"]["dropout"] for name, part in parts.items()}
    losses = {name: part["nats_per_token"] for name, part in parts.items()}
    said = (parts.get("transformer", {}).get("against_reference") or {}).get("verdict")
    trials = "dropout of the best trial; trials differ in four other settings too"
    rows = [
        _of_task(tasks, "selective_copying", MEMORY, fewer=("rnn",), more=("gru", "lstm")),
        _of_task(tasks, "mqar", LONG, fewer=LEFT_TO_RIGHT, more=("transformer",)),
        (SLOWER, "training, tokens/s", training, ",.0f", _by_cell(training)),
        (SLOWER, "generation in int8, tokens/s", generation, ",.0f", _by_cell(generation)),
        (OVERFITTING, trials, dropout, ".2f", NOT_SHOWN),
        (LONG, "test loss at equal tokens, nats a token", losses, ".3f", VERDICTS.get(said or "", NOT_SHOWN)),
    ]
    shown = [
        (claim, measure, *(show(values.get(name), form) for name in COMPARED), verdict)
        for claim, measure, values, form, verdict in rows
    ]
    return rows_of(
        ("claim", "measured as", *COMPARED, "verdict"), shown, words=2, caption="The claims, by this evidence"
    )


def _of_task(
    tasks: JsonObject | None, task: str, claim: str, fewer: tuple[str, ...], more: tuple[str, ...]
) -> tuple[str, str, dict[str, float], str, str]:
    cells = {name: cell for name, cell in (tasks or {}).get("cells", {}).items() if name in COMPARED and task in cell}
    scores = {name: cell[task]["scores"][0] for name, cell in cells.items()}
    seeds = {name: score["by_seed"] for name, score in scores.items()}
    verdict = _remembers_more(*([seeds[name] for name in names if name in seeds] for names in (fewer, more)))
    if any(len(each) < 2 for each in seeds.values()):
        verdict = NOT_SHOWN  # by one seed nothing is said
    length = "".join(f" at length {score['length']}" for score in list(scores.values())[:1])
    measure = f"{task.replace('_', ' ')}, score{length}: 0 is guessing, 1 is no error"
    return claim, measure, {name: fmean(each) for name, each in seeds.items()}, ".2f", verdict


def _by_cell(speeds: dict[str, float]) -> str:
    groups = [[speeds[name]] for name in LEFT_TO_RIGHT if name in speeds]
    return _slower(groups) if len(groups) == len(LEFT_TO_RIGHT) else NOT_SHOWN


LEFT_TO_RIGHT = ("rnn", "gru", "lstm")  # by the number of gates
COMPARED = (*LEFT_TO_RIGHT, "transformer")
VERDICTS = {"better": HOLDS, "worse": NOT}
STEPS = _reach("gradient_vanished_at_after_training", "after training")
VANISHED = "steps back from which on the gradient is below 1 % of that one step back, after training"
MEMORY, SLOWER, OVERFITTING = "gates keep a memory longer", "more gates, slower", "dropout helps against overfitting"
DROPOUT = "best validation loss of the short runs, without → with"
ONE_DIRECTION = "training, tokens/s, against the same cell left to right"
LONG = "long sequences need something else"
GROWTH, CACHE = "cost: exponent p of generation time ∝ lengthᵖ", "memory: perplexity without → with a neural cache"
TRAINING, GENERATION = _number("tokens_per_second", "train"), _number("tokens_per_second", "fp32 timings")
CONTEXT, EXPONENT = _reach("effective_context_tokens", "cut"), _number("generation_growth", "length", ".2f")
OUTPUT = "features of one position, of one direction"
CLAIMS = (
    Claim("gradients vanish without gates", VANISHED, STEPS, _vanishes_without_gates),
    Claim(MEMORY, VANISHED, STEPS, _gates_reach_farther),
    Claim(MEMORY, "effective context, tokens", CONTEXT, _gates_reach_farther),
    Claim(SLOWER, "training, tokens/s", TRAINING, _more_gates_slower, timed=True),
    Claim(SLOWER, "generation, tokens/s", GENERATION, _more_gates_slower, timed=True),
    Claim(OVERFITTING, DROPOUT, _best_losses, _lower_everywhere),
    Claim("bidirectional doubles the output", OUTPUT, _output, _doubled),
    Claim("bidirectional trains faster", ONE_DIRECTION, TRAINING, _two_directions_faster, timed=True),
    Claim(LONG, GROWTH, EXPONENT, _cost_grows, timed=True),
    Claim(LONG, CACHE, _with_cache, _lower_everywhere),
)
