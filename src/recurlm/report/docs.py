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

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from recurlm import config
from recurlm.config import ModelConfig
from recurlm.errors import InputError, nearest
from recurlm.model import build, count_parameters
from recurlm.report import claims
from recurlm.report.metrics import Metrics, read_metrics
from recurlm.report.page import environment
from recurlm.report.results import DIAGNOSTIC_FILES, JsonObject, Result, Results, best, load_results, read_object
from recurlm.report.tables import NONE, show
from recurlm.storage import read_json
from recurlm.strict_yaml import load_yaml

MARK = re.compile(r"(<!-- (figure|text|timing|output): (.+?) -->)(.*?)(<!-- /\2 -->)", re.DOTALL)
OPENED = re.compile(r"<!-- (?:figure|text|timing|output): ")
NOT_YET = "not measured yet"
STEPS = (2, 5, 10, 20, 50, 100, 200)
POSITIONS = (1, 4, 16, 64, 192)


@dataclass(frozen=True)
class Variant:
    """What the templates read of a variant; what is missing is None or empty."""

    result: Result
    metrics: Metrics
    perplexity: JsonObject
    diagnostics: JsonObject
    samples: JsonObject
    timings: JsonObject  # by length

    @property
    def name(self) -> str:
        return self.result.name

    @property
    def pseudo(self) -> bool:
        return self.result.objective.pseudo

    def value(self, metric: str, protocol: str) -> float | None:
        return self.metrics.value(self.name, metric, protocol)

    def score(self, protocol: str, metric: str = "perplexity_per_token") -> float | None:
        """A likelihood on the test split by a protocol, `evaluate` being the stage's."""
        return self.metrics.value(self.name, self.result.objective.metric(metric), protocol, "test")

    def interval(self, protocol: str) -> tuple[float, float] | None:
        return self.metrics.interval(self.name, self.result.objective.metric("perplexity_per_token"), protocol)

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
        return self._curves(("before training", "after training"), "state_mean")

    @cached_property
    def cuts(self) -> dict[str, dict[int, float]]:
        """Treatment of the context → k → the increase of the loss."""
        return self._curves(("cut", "shuffled"), "increase")

    def _curves(self, protocols: tuple[str, str], metric: str) -> dict[str, dict[int, float]]:
        rows = self.metrics.rows(protocols, metric, variant=self.name).dropna(subset="value")
        curves = rows.astype({"at": int}).set_index("at").groupby("protocol", sort=False)["value"]
        return {protocol: curve.to_dict() for protocol, curve in curves}

    def reach(self, key: str, protocol: str) -> str:
        """A distance of the lesson's block, or that it is farther than the protocol's curve."""
        farthest = self.metrics.rows(protocol, variant=self.name)["at"].max()
        if math.isnan(farthest):
            return NONE
        distance = self.lesson.get(key)
        return f"more than {farthest:.0f}" if distance is None else show(distance)

    @cached_property
    def runs(self) -> list[dict[str, float]]:
        """The gap and the best validation loss of the short runs, without and with dropout; empty if one failed."""
        gaps = self.metrics.short_runs(self.name, "gap")
        best = self.metrics.short_runs(self.name, self.result.objective.metric("best_validation_nats_per_token"))
        runs = [{"gap": gaps[each], "best": best[each]} for each in sorted(gaps.keys() & best.keys())]
        return runs if len(runs) == 2 else [{}, {}]

    @property
    def fell(self) -> dict[str, bool]:
        """Whether dropout reduced the gap, and the best validation loss."""
        return {name: self.runs[1][name] < before for name, before in self.runs[0].items()}

    @property
    def timed(self) -> bool:
        return any(self.value("tokens_per_second", each) for each in ("train", "fp32 timings"))


@dataclass(frozen=True)
class Measured:
    """The results under a root, and the macros of templates/docs.j2 without arguments by the names of their marks."""

    root: Path
    results: Results
    metrics: Metrics
    blocks: dict[str, dict[str, Callable[[], str]]]  # by the kind of mark


def read(root: Path) -> Measured:
    """The metrics and timings under `root`.

    Raises:
        InputError: a file is there and cannot be read.
    """
    results = load_results(root, config.load(root / "params.yaml"))
    metrics = read_metrics(results)
    module = environment(html=False).get_template("docs.j2").make_module(_content(root, results, metrics))
    blocks: dict[str, dict[str, Callable[[], str]]] = {"text": {}, "timing": {}}
    for name, macro in vars(module).items():
        if getattr(macro, "arguments", None) == ():
            kind = "timing" if name.startswith("timing_") else "text"
            blocks[kind][name.removeprefix("timing_").replace("_", " ")] = macro
    return Measured(root, results, metrics, blocks)


def _content(root: Path, results: Results, metrics: Metrics) -> dict[str, Any]:
    variants = {
        result.name: Variant(
            result, metrics, **{part: result.diagnosis.files.get(part, {}) for part in DIAGNOSTIC_FILES}
        )
        for result in results.variants
    }
    compared = [variants[name] for name in claims.LEFT_TO_RIGHT if name in variants]
    left_to_right = [variant for variant in variants.values() if not variant.pseudo]
    champion = best(each.result for each in left_to_right if each.samples.get("temperatures"))

    def benchmark(name: str) -> JsonObject:
        return read_object(root / "benchmarks/results" / f"{name}.json")

    def reaches_farther(key: str) -> str:
        ungated, *gated = (claims.NEVER if each.lesson[key] is None else each.lesson[key] for each in compared)
        return claims.times_more([min(gated) / ungated], claims.FARTHER)

    def fastest_first(protocol: str) -> list[str]:
        speeds = {each.name: each.value("tokens_per_second", protocol) for each in compared}
        return [] if None in speeds.values() else sorted(speeds, key=lambda name: -(speeds[name] or 0))

    return {
        "variants": list(variants.values()),
        "left_to_right": left_to_right,
        "compared": compared if len(compared) == len(claims.LEFT_TO_RIGHT) else [],
        "best_generator": variants[champion.name] if champion else None,
        "benchmark": benchmark,
        "claims_compared": lambda: claims.by_comparison(benchmark("compare-plays"), benchmark("memory_tasks")),
        "claims_table": lambda timed: claims.table(results, metrics, timed, {} if timed else benchmark("remember")),
        "reaches_farther": reaches_farther,
        "fastest_first": fastest_first,
        "steps": STEPS,
        "family_sizes": lambda: _family(root),
    }


def _family(root: Path) -> Iterator[tuple[str, ModelConfig, int, JsonObject, int]]:
    """Name, block, parameters, state and its numbers of params.yaml's and zoo.yaml's variants."""
    params = config.load(root / "params.yaml")
    zoo = load_yaml(root / "zoo.yaml")["variants"]
    for name, block in (params.variants | {name: ModelConfig(**(params.model | zoo[name])) for name in zoo}).items():
        model = build(name, block, params.tokenize.vocab_size)
        state = model.recurrence.state_spec
        yield name, block, count_parameters(model), state, sum(map(math.prod, state.values()))


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
            return f"{opening}{_figure(name, measured, page_name)}{closing}"
        if kind == "output":
            return f"{opening}\n{run(name, page[: mark.start()])}\n{closing}" if run else mark[0]
        known = measured.blocks[kind]
        if name not in known:
            raise InputError(f"{page_name}: unknown {kind} '{name}': {nearest(name, known)}")
        new = known[name]().removesuffix("\n") if kind == "text" or timings else ""
        if not new and kind == "timing" and old.strip():
            return mark[0]
        return f"{opening}\n{new or f'*{NOT_YET}*'}\n{closing}"

    return MARK.sub(filled, page)


def _figure(address: str, measured: Measured, page_name: str) -> str:
    """The number at an address in data/metrics, such as "rnn.json test.nats_per_token .2f"; null is a dash."""
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
    if isinstance(value, int | float | None) and not isinstance(value, bool):
        return NONE if value is None else format(value, form).replace("-", "−")
    raise InputError(f"{page_name}: {path}: '{keys}' is no number")
