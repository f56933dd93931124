"""What README.md and docs/ hold between their marks, which are HTML comments that are not rendered.

    <!-- figure: perplexity/lstm.json static.perplexity_per_token .1f -->42.2<!-- /figure -->

is a number of data/metrics: its file, its path of keys, and its Python format. A mark alone on its line,

    <!-- text: memory -->
    …
    <!-- /text -->

holds a table or a sentence: the macro of that name in templates/docs.j2. `timing:` is the same from data/timings; on a
machine without timings it stays as it is. `output: recurlm generate` is what the first command of these words that
stands above on the page prints.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from typing import Any

from recurlm import config
from recurlm.errors import InputError, nearest
from recurlm.report import claims, family
from recurlm.report.metrics import Metrics, read_metrics
from recurlm.report.page import environment
from recurlm.report.results import DIAGNOSTIC_FILES, JsonObject, Result, Results, best, load_results
from recurlm.report.tables import NONE, Table, show
from recurlm.storage import read_json

MARK = re.compile(r"(<!-- (figure|text|timing|output): (.+?) -->)(.*?)(<!-- /\2 -->)", re.DOTALL)
OPENED = re.compile(r"<!-- (?:figure|text|timing|output): ")
NOT_YET = "not measured yet"
COMPARED = ("rnn", "gru", "lstm")
STEPS = (2, 5, 10, 20, 50, 100, 200)
POSITIONS = (1, 4, 16, 64, 192)
EXCERPT = 220  # characters of a text


@dataclass(frozen=True)
class Variant:
    """What the templates read of a variant; what is missing is None or empty."""

    result: Result
    metrics: Metrics
    perplexity: JsonObject
    diagnostics: JsonObject
    samples: JsonObject
    timings: JsonObject  # by length

    @classmethod
    def of(cls, result: Result, metrics: Metrics) -> Variant:
        return cls(result, metrics, **{part: result.diagnosis.files.get(part, {}) for part in DIAGNOSTIC_FILES})

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def pseudo(self) -> bool:
        return self.result.objective.pseudo

    @property
    def shape(self) -> str:
        layers, hidden = (self.lesson.get(key, self.result.model_config[key]) for key in ("layers", "hidden_size"))
        return f"{layers} × {hidden}"

    def value(self, metric: str, protocol: str) -> float | None:
        return self.metrics.value(self.name, metric, protocol)

    def test(self, metric: str) -> float | None:
        """A likelihood on the test split, by the stage evaluate."""
        return self.metrics.value(self.name, self.result.objective.metric(metric), "evaluate", "test")

    def score(self, protocol: str) -> float | None:
        """The perplexity per token by a protocol."""
        return self.value(self.result.objective.metric("perplexity_per_token"), protocol)

    def interval(self, protocol: str) -> tuple[float, float] | None:
        return self.metrics.interval(self.name, self.result.objective.metric("perplexity_per_token"), protocol)

    @property
    def windows(self) -> tuple[float, float] | None:
        return self.interval("static")

    def identical(self, precision: str) -> float | None:
        """How many of the generated tokens are those of PyTorch."""
        counts = [self.value(f"{kind}_tokens_identical", precision) for kind in ("greedy", "sampled")]
        return None if None in counts else sum(filter(None, counts))

    @property
    def lesson(self) -> JsonObject:
        return self.diagnostics.get("lesson") or {}

    @property
    def gates(self) -> list[JsonObject]:
        return (self.diagnostics.get("gates") or {}).get("rows") or []

    @property
    def positions(self) -> list[JsonObject]:
        """Some of the bins of the loss by position."""
        return [row for row in self.perplexity.get("by_position") or () if row["from"] in POSITIONS]

    @cached_property
    def norms(self) -> dict[str, dict[int, float]]:
        """Moment → k → the gradient's mean norm."""
        moments = ("before training", "after training")
        return {moment: each for moment in moments if (each := self._curve(moment, "state_mean"))}

    @cached_property
    def cuts(self) -> dict[str, dict[int, float]]:
        """Treatment of the context → k → the increase of the loss."""
        return {treatment: each for treatment in ("cut", "shuffled") if (each := self._curve(treatment, "increase"))}

    def _curve(self, protocol: str, metric: str) -> dict[int, float]:
        rows = self.metrics.rows(protocol, metric, variant=self.name).dropna(subset="value")
        return dict(zip(rows["at"].astype(int), rows["value"], strict=True))

    @property
    def effective_context(self) -> str:
        """In tokens; of a cloze model on either side."""
        return self._reach("effective_context_tokens", "cut") if self.cuts else NONE

    @property
    def gradient_reach(self) -> str:
        """The first k from which on the gradient norm is below 1 % of that at k = 1, after training."""
        return self._reach("gradient_vanished_at_after_training", "after training") if self.norms else NONE

    def _reach(self, key: str, protocol: str) -> str:
        found = self.lesson.get(key)
        farthest = self.metrics.rows(protocol, variant=self.name)["at"].max()
        return f"more than {farthest:.0f}" if found is None else show(found)

    @cached_property
    def runs(self) -> tuple[dict[str, float], dict[str, float]]:
        """The gap and the best validation loss of the short runs, without and with dropout; empty if one failed."""
        gaps = self.metrics.short_runs(self.name, "gap")
        best = self.metrics.short_runs(self.name, self.result.objective.metric("best_validation_nats_per_token"))
        whole = [{"gap": gaps[each], "best": best[each]} for each in sorted(gaps.keys() & best.keys())]
        return (whole[0], whole[1]) if len(whole) == 2 else ({}, {})

    @property
    def ran(self) -> bool:
        return bool(self.runs[0])

    @property
    def fell(self) -> dict[str, bool]:
        """Whether dropout reduced the gap, and the best validation loss."""
        return {name: self.runs[1][name] < before for name, before in self.runs[0].items()}

    @property
    def timed(self) -> bool:
        return any(self.value("tokens_per_second", each) for each in ("train", "fp32 timings"))


@dataclass(frozen=True)
class Measured:
    """The results under a root, and the functions of templates/docs.j2 by their names."""

    root: Path
    results: Results
    metrics: Metrics
    variants: dict[str, Variant]
    blocks: dict[str, Callable[[], str]]


def read(root: Path) -> Measured:
    """The metrics and timings under `root`.

    Raises:
        InputError: a file is there and cannot be read.
    """
    results = load_results(root, config.load(root / "params.yaml"))
    metrics = read_metrics(results)
    variants = {result.name: Variant.of(result, metrics) for result in results.variants}
    made = environment(html=False)
    made.filters |= {"spread": _spread, "excerpt": _excerpt, "indented": _indented}
    module = made.get_template("docs.j2").make_module(_content(root, results, metrics, variants))
    macros = {name: each for name, each in vars(module).items() if getattr(each, "arguments", None) == ()}
    return Measured(root, results, metrics, variants, macros)


def _content(root: Path, results: Results, metrics: Metrics, variants: dict[str, Variant]) -> dict[str, Any]:
    benchmarks = root / "benchmarks/results"
    tasks = _read(benchmarks / "remember.json")
    plays, memory = (_read(benchmarks / f"{name}.json") for name in ("compare-plays", "memory_tasks"))
    left_to_right = [variant for variant in variants.values() if not variant.pseudo]
    compared = [variants[name] for name in COMPARED if name in variants]
    champion = best(each.result for each in left_to_right if each.samples.get("temperatures"))

    def claims_table(timed: bool) -> Table:
        return claims.table(results, metrics, timed, () if timed else _remembered(tasks, variants))

    def distances(key: str) -> dict[str, float]:
        return {each.name: claims.NEVER if each.lesson[key] is None else each.lesson[key] for each in compared}

    def speed_of(protocol: str) -> list[str]:
        speeds = {each.name: each.value("tokens_per_second", protocol) for each in compared}
        return [] if None in speeds.values() else sorted(speeds, key=lambda name: -(speeds[name] or 0))

    return {
        "variants": list(variants.values()),
        "left_to_right": left_to_right,
        "scored": [variant for variant in variants.values() if variant.result.metrics],
        "lesson": COMPARED,
        "compared": compared if len(compared) == len(COMPARED) else [],
        "best_generator": variants[champion.name] if champion else None,
        "repro": (_read(benchmarks / "repro.json") or {}).get("variants", {}),
        "tasks": tasks,
        "two_directions": _read(benchmarks / "bidirectional.json"),
        "plays": plays,
        "remembered": memory,
        "claims_compared": lambda: claims.by_comparison(plays, memory),
        "steps": STEPS,
        "claims_table": claims_table,
        "distances": distances,
        "reaches_farther": claims.reaches_farther,
        "speed_of": speed_of,
        "family_table": lambda: family.table(root),
    }


def _read(path: Path) -> JsonObject | None:
    return dict(read_json(path)) if path.is_file() else None


def _remembered(tasks: JsonObject | None, variants: dict[str, Variant]) -> tuple[tuple[str, ...], ...]:
    """The claim on memory once more: a row by the right answers of benchmarks/remember.py after its longest delay."""
    if not tasks:
        return ()
    delay = tasks["train_delay"]
    answers = {
        name: at["by_seed"]
        for name, variant in tasks["variants"].items()
        for at in variant["accuracy"]
        if at["delay"] == delay
    }
    gates = {name: variant.lesson["gates"] for name, variant in variants.items() if variant.lesson}
    ungated = [right for name, right in answers.items() if gates.get(name) == 0]
    gated = [right for name, right in answers.items() if gates.get(name)]
    measure = f"right answers after {delay} tokens of noise, mean (lowest–highest of the seeds)"
    figures = (_spread(answers[name]) if name in answers else NONE for name in variants)
    return ((claims.MEMORY, measure, *figures, claims.remembers_more(ungated, gated)),)


def _spread(accuracies: list[float]) -> str:
    """The mean, and the lowest and the highest where they differ from it."""
    mean, lowest, highest = (show(each, ".0%") for each in (fmean(accuracies), min(accuracies), max(accuracies)))
    return mean if lowest == highest else f"{mean} ({lowest.removesuffix(' %')}–{highest.removesuffix(' %')})"


def _excerpt(text: str) -> str:
    return text if len(text) <= EXCERPT else text[:EXCERPT].rsplit(" ", 1)[0] + " …"


def _indented(text: str) -> str:
    """The text as an indented code block."""
    return textwrap.indent(text.strip("\n"), "    ").replace("<!--", "<! --")


def fill(
    page: str,
    measured: Measured,
    timings: bool = True,
    page_name: str = "docs/lesson.md",
    run: Callable[[str, str], str] | None = None,
) -> str:
    """The page with its marks filled.

    Args:
        timings: whether the `timing` marks are filled too; else they stay as they are.
        run: (first words of a command, the page above the mark) → its output; None: the `output` marks stay.

    Raises:
        InputError: a mark is not closed, or its name or address is unknown.
    """
    if len(MARK.findall(page)) != len(OPENED.findall(page)):
        raise InputError(f"{page_name}: a mark <!-- figure|text|timing|output: … --> is not closed by <!-- /… -->")

    def filled(mark: re.Match[str]) -> str:
        opening, kind, name, old, closing = mark.groups()
        if kind == "figure":
            return f"{opening}{figure(name, measured, page_name)}{closing}"
        if kind == "output":
            return f"{opening}\n{run(name, page[: mark.start()])}\n{closing}" if run else mark[0]
        block = _block(kind, name, measured, page_name)
        new = block().removesuffix("\n") if kind == "text" or timings else ""
        if not new and kind == "timing" and old.strip():
            return mark[0]
        new = new or f"*{NOT_YET}*"
        return f"{opening}\n{new}\n{closing}"

    return MARK.sub(filled, page)


def _block(kind: str, name: str, measured: Measured, page_name: str) -> Callable[[], str]:
    prefix = "timing_" if kind == "timing" else ""
    known = {
        macro.removeprefix(prefix).replace("_", " "): block
        for macro, block in measured.blocks.items()
        if macro.startswith("timing_") == bool(prefix)
    }
    if name not in known:
        raise InputError(f"{page_name}: unknown {kind} '{name}': {nearest(name, known)}")
    return known[name]


def figure(address: str, measured: Measured, page_name: str) -> str:
    """The formatted number at an address in data/metrics, such as "rnn.json test.nats_per_token .2f"; null is a dash.

    Raises:
        InputError: the file has no such number.
    """
    file, _, rest = address.partition(" ")
    keys, _, form = rest.partition(" ")
    path = measured.root / "data/metrics" / file
    if not path.is_file():
        return NOT_YET
    value: Any = read_json(path)
    for key in keys.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise InputError(f"{page_name}: {path} has no '{keys}'")
        value = value[key]
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise InputError(f"{page_name}: {path}: '{keys}' is no number")
    return NONE if value is None else format(value, form).replace("-", "−")
