"""Perplexity as papers report it: static, with a neural cache, with dynamic evaluation, each apart and labelled.

Each block holds all units, the counts that they divide by, and intervals. What was tuned was tuned on validation text.
Adaptive scores read at most as many tokens as params.yaml says; beside each stands the static score of the very same.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from tokenizers import Tokenizer

from recurlm.config import Diagnose, Evaluate
from recurlm.diagnostics import breakdown, cache, dynamic
from recurlm.diagnostics.intervals import Bootstrap
from recurlm.diagnostics.likelihoods import SplitNLL, split_nll, total
from recurlm.diagnostics.parts import Part, beginnings, count
from recurlm.diagnostics.parts import total as total_counts
from recurlm.evaluation.metrics import describe
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.tokens.counts import Counts
from recurlm.tokens.encode import Documents
from recurlm.tokens.files import TokenFile
from recurlm.tokens.tokenizer import KINDS

PROTOCOLS = {
    "streamed": "state zero at a document's start, then carried: windows with context before them",
    "cloze": "each token from those on both of its sides: pseudo-likelihoods, comparable with cloze models only",
    "cold_windows": "text cut into windows, each read from a zero state, one token before its first",
    "neural_cache": "streamed, and mixed with a cache of the document's last features and tokens; empty at its start",
    "dynamic_evaluation": "one document at a time, segment by segment, weights updated after each; reset at its start",
}


@dataclass(frozen=True)
class Text:
    """The splits as ids, and the text that the test ids came from."""

    train: TokenFile
    validation: TokenFile
    test: TokenFile
    test_corpus: Documents
    tokenizer: Tokenizer


class Measure:
    """One model's perplexities; each method is a block of data/metrics/perplexity/<variant>.json."""

    def __init__(self, model: LanguageModel, text: Text, settings: Diagnose, windows: Evaluate) -> None:
        self.model, self.text, self.settings, self.windows = model, text, settings, windows
        self.objective = objective_of(model)
        self.bootstrap = Bootstrap(settings.bootstrap_samples, settings.confidence, settings.seed)
        self.cut = KINDS[text.test.manifest["kind"]].cut
        self._test: dict[int, tuple[Part, list[Counts]]] = {}

    @property
    def about(self) -> dict[str, Any]:
        """What the other blocks have in common."""
        manifest = self.text.test.manifest
        return {
            "split": "test",
            "protocols": PROTOCOLS,
            "tokenizer": {"kind": manifest["kind"], "vocab_size": manifest["vocab_size"]},
            "tokens_are_words": manifest["kind"] == "word",
            "bootstrap": {"samples": self.settings.bootstrap_samples, "confidence": self.settings.confidence},
        }

    def part(self, budget: int) -> tuple[Part, list[Counts]]:
        """At most so many tokens of the test split, and what each document's part holds."""
        if budget not in self._test:
            part = beginnings(self.text.test.ids, self.text.test.starts, budget)
            self._test[budget] = part, count(part, self.text.test_corpus, self.text.tokenizer, self.cut)
        return self._test[budget]

    def static(self) -> tuple[dict[str, Any], list[dict[str, Any]], SplitNLL]:
        """All of the test split by the protocol of the stage evaluate; the same by token frequency; and the reading."""
        part, counts = self.part(self.text.test.counts["tokens"])
        # Features are kept if the cache reads just this: the test split is read once, not twice.
        wanted = not self.objective.both_sides and part.tokens <= self.settings.cache.test_tokens
        found = split_nll(self.model, part.ids, part.starts, self.windows, keep_features=wanted)
        nats = found.nats[found.text]
        frequency = breakdown.by_frequency(
            nats,
            self._units(part),
            part.ids[found.text],
            self.text.train.ids,
            self.model.vocab_size,
            self.bootstrap,
        )
        windows = self.windows.model_dump(include={"window_tokens", "context_tokens"})
        return {"protocol": self.objective.protocol, **windows, **self._numbers(nats, part, counts)}, frequency, found

    def cold(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """All of the test split in windows that nothing is carried into; and the loss by position in them."""
        window = self.settings.cold_window_tokens
        part, counts = self.part(self.text.test.counts["tokens"])
        # As many tokens are read at once as in windows with context.
        rows = max(1, self.windows.batch_size * self.windows.window_tokens // window)
        settings = Evaluate(batch_size=rows, window_tokens=window, context_tokens=0)
        found = split_nll(self.model, part.ids, part.starts, settings)
        nats = found.nats[found.text]
        block = {"protocol": "cold_windows", "window_tokens": window, **self._numbers(nats, part, counts)}
        if self.objective.both_sides:
            return block, []
        return block, breakdown.by_position(nats, self._units(part), part.lengths(), window, self.bootstrap)

    def cached(self, whole: SplitNLL) -> dict[str, Any]:
        """With a neural cache; `whole` is what `static` read."""
        grid = self.settings.cache
        validation = beginnings(self.text.validation.ids, self.text.validation.starts, grid.validation_tokens)
        tuned_on = split_nll(self.model, validation.ids, validation.starts, self.windows, keep_features=True)
        chosen, trials = cache.tune(tuned_on, validation.ids, grid)
        part, counts = self.part(min(grid.test_tokens, self.text.test.counts["tokens"]))
        found = whole
        if found.features is None:
            found = split_nll(self.model, part.ids, part.starts, self.windows, keep_features=True)
        adapted = cache.evaluate(found, part.ids, chosen)
        facts = {"protocol": "neural_cache", "reference": "Grave, Joulin & Usunier 2017, arXiv:1612.04426"}
        return facts | self._adaptive(adapted, found.nats[found.text], part, counts, chosen, trials, validation)

    def adapted(self) -> dict[str, Any]:
        """With dynamic evaluation."""
        grid = self.settings.dynamic
        validation = beginnings(self.text.validation.ids, self.text.validation.starts, grid.validation_tokens)
        part, counts = self.part(min(grid.test_tokens, self.text.test.counts["tokens"]))
        static = split_nll(self.model, part.ids, part.starts, self.windows)
        with dynamic.learner(self.model, grid.segment_tokens) as adaptive:
            adaptive.learn_statistics(self.text.train.ids, grid.statistics_tokens)
            chosen, trials = dynamic.tune(adaptive, validation, grid)
            adapted = adaptive.nats(part, **chosen)
        facts = {
            "protocol": "dynamic_evaluation",
            "reference": "Krause, Kahembwe, Murray & Renals 2018, arXiv:1709.07432",
            "segment_tokens": grid.segment_tokens,
            "statistics_tokens": grid.statistics_tokens,
        }
        if not np.isfinite(adapted).all():  # the weights left for infinity, whatever the validation text said
            tuned_on = {"split": "validation", "tokens": validation.tokens, "chosen": chosen, "trials": trials}
            return facts | {"problem": "diverged: lower diagnose.dynamic.learning_rates", "tuned_on": tuned_on}
        return facts | self._adaptive(adapted, static.nats[static.text], part, counts, chosen, trials, validation)

    def _units(self, part: Part) -> Int[np.ndarray, "text"]:
        """To which window each token of text belongs."""
        counts = [
            min(self.windows.window_tokens, length - at)
            for length in part.lengths()
            for at in range(0, length, self.windows.window_tokens)
        ]
        return np.repeat(np.arange(len(counts)), counts)

    def _adaptive(
        self,
        nats: Float[np.ndarray, "text"],
        static: Float[np.ndarray, "text"],
        part: Part,
        counts: list[Counts],
        chosen: dict[str, Any],
        trials: list[dict[str, Any]],
        validation: Part,
    ) -> dict[str, Any]:
        gain = static.astype(np.float64) - nats
        units = self._units(part)
        return {
            "problem": None,
            "tuned_on": {"split": "validation", "tokens": validation.tokens, "chosen": chosen, "trials": trials},
            "whole_split": part.tokens == self.text.test.counts["tokens"],
            **self._numbers(nats, part, counts),
            "static_on_the_same_tokens": describe(total(static), total_counts(counts)),
            "gain_nats_per_token": float(gain.mean()),
            "gain_interval_over_sections": self.bootstrap.ratio(np.bincount(units, gain), np.bincount(units)),
        }

    def _numbers(self, nats: Float[np.ndarray, "text"], part: Part, counts: list[Counts]) -> dict[str, Any]:
        """Every unit, and how far it is to be trusted."""
        sums = np.array([document.sum(dtype=np.float64) for document in _split(nats, part)])
        rows = [document.totals() for document in counts]
        prefix = self.objective.metric_prefix

        def over(name: str, to: Any) -> Any:
            return self.bootstrap.ratio(sums, np.array([row[name] for row in rows]), to)

        units = self._units(part)
        window_sums, window_tokens = np.bincount(units, nats.astype(np.float64)), np.bincount(units)
        over_documents = {
            "nats_per_token": over("tokens", float),
            "perplexity_per_token": over("tokens", math.exp),
            "perplexity_per_word": over("words", math.exp),
            "bits_per_byte": over("bytes", _bits),
            "bits_per_character": over("characters", _bits),
        }
        over_windows = {
            "nats_per_token": self.bootstrap.ratio(window_sums, window_tokens),
            "perplexity_per_token": self.bootstrap.ratio(window_sums, window_tokens, math.exp),
        }
        return {
            **describe(total(nats), total_counts(counts), prefix),
            "documents": len(rows),
            "intervals_over_documents": {prefix + name: value for name, value in over_documents.items()},
            "windows": len(window_tokens),
            "intervals_over_windows": {prefix + name: value for name, value in over_windows.items()},
        }


def _bits(nats: float) -> float:
    return nats / math.log(2)


def _split(nats: Float[np.ndarray, "text"], part: Part) -> list[Float[np.ndarray, "text"]]:
    """The text tokens of each document."""
    ends = np.cumsum([0, *part.lengths()])
    return [nats[start:stop] for start, stop in pairwise(ends)]
