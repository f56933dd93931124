"""The two training objectives on the page: how their metrics are named, and what captions and columns call them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Objective:
    name: str  # "objective" in data/metrics and bundle.json
    protocol: str  # "protocol" in data/metrics/<variant>.json
    metric_prefix: str  # of the names of losses and perplexities
    label: str
    verb: str  # what a model of this objective does with a prompt
    task: str  # the ONNX graph that does it, without `.onnx`
    rate: str  # its speed in data/timings/generate-<variant>.json
    context_side: str  # where the k tokens of a cut context stand

    @property
    def pseudo(self) -> bool:
        """Whether its scores are pseudo-likelihoods, which compare only with one another."""
        return bool(self.metric_prefix)

    def metric(self, name: str) -> str:
        """The key of a metric: `perplexity_per_token` or `pseudo_perplexity_per_token`."""
        return f"{self.metric_prefix}{name}"

    def unit(self, name: str) -> str:
        """The same for a reader: `nats` or `pseudo-nats`."""
        return f"{self.metric_prefix.replace('_', '-')}{name}"

    def caption(self, text: str) -> str:
        """A chart's caption, marked where the scale is one of pseudo-likelihoods."""
        return f"{text} ({self.label})" if self.pseudo else text


OBJECTIVES = (
    Objective("causal", "streamed", "", "left to right", "generates", "generator", "tokens_per_second", ""),
    Objective("cloze", "cloze", "pseudo_", "cloze", "fills", "filler", "filled_per_second", " on either side"),
)


def find(name: Any = None, protocol: Any = None) -> Objective:
    """The objective of that name or protocol; the first one where neither is known."""
    return next((each for each in OBJECTIVES if name == each.name or protocol == each.protocol), OBJECTIVES[0])


def by_objective(rows: Iterable[dict[str, Any]]) -> Iterator[tuple[Objective, list[dict[str, Any]]]]:
    """(objective, its rows) for each objective that has rows; a row names its objective."""
    rows = list(rows)
    for objective in OBJECTIVES:
        if part := [row for row in rows if row["objective"] == objective.name]:
            yield objective, part
