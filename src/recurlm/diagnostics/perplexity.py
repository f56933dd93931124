"""Perplexity as papers report it: static, with a neural cache, and with dynamic evaluation.

Each block has all units, the counts that they divide by, and bootstrap intervals. Settings are tuned on validation
text. Adaptive scores are over at most as many tokens as params.yaml says, beside the static score of the same tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from recurlm.config import Evaluate
from recurlm.corpus.reader import open_split
from recurlm.diagnostics import breakdown, cache, dynamic
from recurlm.diagnostics.likelihoods import SplitNLL, split_nll, total
from recurlm.diagnostics.subject import Subject
from recurlm.diagnostics.subset import Subset, count_text, head, sum_counts
from recurlm.evaluation.perplexity import describe
from recurlm.tokens.counts import Counts
from recurlm.tokens.tokenizer import KINDS

PROTOCOLS = {
    "streamed": "zero state at a document's start, then carried: windows with context before them",
    "cloze": "each token given those on both sides: pseudo-likelihoods, comparable with cloze models only",
    "cold_windows": "windows without context: each read from a zero state, from one token before its first",
    "neural_cache": "streamed, interpolated with a cache of the document's last features and tokens, at first empty",
    "dynamic_evaluation": "weights updated after each segment of a document; reset at its start",
}
Block = dict[str, Any]
Losses = Float[np.ndarray, "text"]


def _bits(nats: float) -> float:
    return nats / math.log(2)


# Metric → the count that the loss is divided by, and what the ratio becomes.
UNITS: dict[str, tuple[str, Callable[[float], float]]] = {
    "nats_per_token": ("tokens", float),
    "perplexity_per_token": ("tokens", math.exp),
    "perplexity_per_word": ("words", math.exp),
    "bits_per_byte": ("bytes", _bits),
    "bits_per_character": ("characters", _bits),
}


class Perplexity:
    """Perplexities of one model; each method is a block of data/metrics/perplexity/<variant>.json."""

    def __init__(self, subject: Subject) -> None:
        self.subject, self.model, self.objective = subject, subject.model, subject.objective
        self.settings, self.evaluate = subject.params.diagnose, subject.params.evaluate
        self.test_tokens = subject.test.counts["tokens"]
        self._subsets: dict[int, tuple[Subset, list[Counts]]] = {}

    @property
    def about(self) -> Block:
        """What all blocks share."""
        manifest = self.subject.test.manifest
        return {
            "split": "test",
            "protocols": PROTOCOLS,
            "tokenizer": {"kind": manifest["kind"], "vocab_size": manifest["vocab_size"]},
            "tokens_are_words": manifest["kind"] == "word",
            "bootstrap": {
                "samples": self.settings.bootstrap_samples,
                "confidence": self.settings.confidence,
                "window_tokens": self.evaluate.window_tokens,
            },
        }

    def subset(self, max_tokens: int) -> tuple[Subset, list[Counts]]:
        """At most `max_tokens` tokens of the test split, and the counts of each document."""
        max_tokens = min(max_tokens, self.test_tokens)
        if max_tokens not in self._subsets:
            test, corpus = self.subject.test, open_split(self.subject.data / "corpus", "test")
            subset = head(test.ids, test.starts, max_tokens)
            counts = count_text(subset, corpus, self.subject.tokenizer, KINDS[test.manifest["kind"]].cut)
            self._subsets[max_tokens] = subset, counts
        return self._subsets[max_tokens]

    def static(self) -> tuple[Block, list[Block], SplitNLL]:
        """The test split by the protocol of the stage evaluate; the same by token frequency; and each token's NLL."""
        subset, counts = self.subset(self.test_tokens)
        # Kept if the cache needs just these: the test split is read once, not twice.
        keep_features = not self.objective.both_sides and subset.tokens <= self.settings.cache.test_tokens
        scores = split_nll(self.model, subset.ids, subset.starts, self.evaluate, keep_features)
        nats = scores.nats[scores.text]
        frequency = breakdown.by_frequency(
            nats,
            self._windows(subset),
            subset.ids[scores.text],
            self.subject.train.ids,
            self.model.vocab_size,
            self.subject.bootstrap,
            self.objective.metric_prefix,
        )
        windows = self.evaluate.model_dump(include={"window_tokens", "context_tokens"})
        block = {"protocol": self.objective.protocol, **windows, **self._numbers(nats, subset, counts)}
        return block, frequency, scores

    def cold_windows(self) -> tuple[Block, list[Block] | None]:
        """The test split in windows without context; and the loss by position in them, where only the left is read."""
        window = self.settings.cold_window_tokens
        subset, counts = self.subset(self.test_tokens)
        # As many tokens a batch as in windows with context.
        batch_size = max(1, self.evaluate.batch_size * self.evaluate.window_tokens // window)
        settings = Evaluate(batch_size=batch_size, window_tokens=window, context_tokens=0)
        scores = split_nll(self.model, subset.ids, subset.starts, settings)
        nats = scores.nats[scores.text]
        block = {"protocol": "cold_windows", "window_tokens": window, **self._numbers(nats, subset, counts)}
        if self.objective.both_sides:
            return block, None
        units, bootstrap = self._windows(subset), self.subject.bootstrap
        return block, breakdown.by_position(nats, units, subset.lengths(), window, bootstrap)

    def neural_cache(self, static: SplitNLL) -> Block:
        """With a neural cache; `static` is what `static()` returned."""
        grid, validation = self.settings.cache, self.subject.validation
        tuned_on = head(validation.ids, validation.starts, grid.validation_tokens)
        tuned = split_nll(self.model, tuned_on.ids, tuned_on.starts, self.evaluate, keep_features=True)
        chosen, trials = cache.tune(tuned, tuned_on.ids, grid)
        subset, counts = self.subset(grid.test_tokens)
        if static.features is None:
            static = split_nll(self.model, subset.ids, subset.starts, self.evaluate, keep_features=True)
        adapted = cache.cached_nll(static, subset.ids, chosen)
        facts = {"protocol": "neural_cache", "reference": "Grave, Joulin & Usunier 2017, arXiv:1612.04426"}
        search = {"split": "validation", "tokens": tuned_on.tokens, "chosen": chosen, "trials": trials}
        return facts | self._adaptive(adapted, static, subset, counts, search)

    def dynamic_evaluation(self) -> Block:
        """With dynamic evaluation."""
        grid, validation = self.settings.dynamic, self.subject.validation
        tuned_on = head(validation.ids, validation.starts, grid.validation_tokens)
        subset, counts = self.subset(grid.test_tokens)
        static = split_nll(self.model, subset.ids, subset.starts, self.evaluate)
        with dynamic.dynamic_evaluator(self.model, grid.segment_tokens) as evaluator:
            evaluator.collect_statistics(self.subject.train.ids, grid.statistics_tokens)
            chosen, trials = dynamic.tune(evaluator, tuned_on, grid)
            adapted = evaluator.nll(subset, **chosen)
        facts = {
            "protocol": "dynamic_evaluation",
            "reference": "Krause, Kahembwe, Murray & Renals 2018, arXiv:1709.07432",
            "segment_tokens": grid.segment_tokens,
            "statistics_tokens": grid.statistics_tokens,
        }
        search = {"split": "validation", "tokens": tuned_on.tokens, "chosen": chosen, "trials": trials}
        if not np.isfinite(adapted).all():  # diverged here, though not on validation text
            return facts | {"problem": "diverged: lower diagnose.dynamic.learning_rates", "tuned_on": search}
        return facts | self._adaptive(adapted, static, subset, counts, search)

    def _windows(self, subset: Subset) -> Int[np.ndarray, "text"]:
        """The bootstrap unit of each token of text: windows of `evaluate.window_tokens`."""
        size = self.evaluate.window_tokens
        counts = [min(size, length - begin) for length in subset.lengths() for begin in range(0, length, size)]
        return np.repeat(np.arange(len(counts)), counts)

    def _adaptive(self, nats: Losses, scores: SplitNLL, subset: Subset, counts: list[Counts], tuned_on: Block) -> Block:
        static, windows = scores.nats[scores.text], self._windows(subset)
        gain = static.astype(np.float64) - nats
        return {
            "problem": None,
            "tuned_on": tuned_on,
            "whole_split": subset.tokens == self.test_tokens,
            **self._numbers(nats, subset, counts),
            "static_on_the_same_tokens": describe(total(static), sum_counts(counts)),
            "gain_nats_per_token": float(gain.mean()),
            "gain_interval_over_windows": self.subject.bootstrap.ratio(
                np.bincount(windows, gain), np.bincount(windows)
            ),
        }

    def _numbers(self, nats: Losses, subset: Subset, counts: list[Counts]) -> Block:
        """The loss in every unit, with bootstrap intervals over documents and over windows."""
        prefix, ratio = self.objective.metric_prefix, self.subject.bootstrap.ratio
        ends = np.cumsum([0, *subset.lengths()])
        by_document = np.array([nats[start:stop].sum(dtype=np.float64) for start, stop in pairwise(ends)])
        documents = [document.totals() for document in counts]
        windows = self._windows(subset)
        by_window, window_tokens = np.bincount(windows, nats.astype(np.float64)), np.bincount(windows)
        return {
            **describe(total(nats), sum_counts(counts), prefix),
            "documents": len(documents),
            "intervals_over_documents": {
                prefix + name: ratio(by_document, np.array([each[count] for each in documents]), to)
                for name, (count, to) in UNITS.items()
            },
            "windows": len(window_tokens),
            "intervals_over_windows": {
                prefix + name: ratio(by_window, window_tokens, to)
                for name, (count, to) in UNITS.items()
                if count == "tokens"
            },
        }
