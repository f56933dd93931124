"""Perplexity as papers report it: static, with a neural cache, and with dynamic evaluation.

Each block has all units, the counts that they divide by, and bootstrap intervals. Settings are tuned on validation
text. Adaptive scores are over at most as many tokens as params.yaml says, beside the static score of the same tokens.
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
from recurlm.diagnostics.subset import Subset, count_text, head, sum_counts
from recurlm.evaluation.perplexity import describe
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.tokens.counts import Counts
from recurlm.tokens.encode import Documents
from recurlm.tokens.files import TokenFile
from recurlm.tokens.tokenizer import KINDS

PROTOCOLS = {
    "streamed": "zero state at a document's start, then carried: windows with context before them",
    "cloze": "each token given those on both sides: pseudo-likelihoods, comparable with cloze models only",
    "cold_windows": "windows without context: each read from a zero state, from one token before its first",
    "neural_cache": "streamed, interpolated with a cache of the document's last features and tokens, at first empty",
    "dynamic_evaluation": "weights updated after each segment of a document; reset at its start",
}


@dataclass(frozen=True)
class Splits:
    """The splits as ids, and the text of the test split."""

    train: TokenFile
    validation: TokenFile
    test: TokenFile
    test_corpus: Documents
    tokenizer: Tokenizer


class ModelPerplexity:
    """Perplexities of one model; each method is a block of data/metrics/perplexity/<variant>.json."""

    def __init__(self, model: LanguageModel, splits: Splits, settings: Diagnose, windows: Evaluate) -> None:
        self.model, self.splits, self.settings, self.windows = model, splits, settings, windows
        self.objective = objective_of(model)
        self.bootstrap = Bootstrap(settings.bootstrap_samples, settings.confidence, settings.seed)
        self.cut = KINDS[splits.test.manifest["kind"]].cut
        self._test: dict[int, tuple[Subset, list[Counts]]] = {}

    @property
    def about(self) -> dict[str, Any]:
        """What all blocks share."""
        manifest = self.splits.test.manifest
        return {
            "split": "test",
            "protocols": PROTOCOLS,
            "tokenizer": {"kind": manifest["kind"], "vocab_size": manifest["vocab_size"]},
            "tokens_are_words": manifest["kind"] == "word",
            "bootstrap": {
                "samples": self.settings.bootstrap_samples,
                "confidence": self.settings.confidence,
                "window_tokens": self.windows.window_tokens,
            },
        }

    def subset(self, max_tokens: int) -> tuple[Subset, list[Counts]]:
        """At most `max_tokens` tokens of the test split, and the counts of each document."""
        if max_tokens not in self._test:
            subset = head(self.splits.test.ids, self.splits.test.starts, max_tokens)
            self._test[max_tokens] = (
                subset,
                count_text(subset, self.splits.test_corpus, self.splits.tokenizer, self.cut),
            )
        return self._test[max_tokens]

    def static(self) -> tuple[dict[str, Any], list[dict[str, Any]], SplitNLL]:
        """The test split by the protocol of the stage evaluate; the same by token frequency; and each token's NLL."""
        subset, counts = self.subset(self.splits.test.counts["tokens"])
        # Kept if the cache needs just these: the test split is read once, not twice.
        keep_features = not self.objective.both_sides and subset.tokens <= self.settings.cache.test_tokens
        scores = split_nll(self.model, subset.ids, subset.starts, self.windows, keep_features=keep_features)
        nats = scores.nats[scores.text]
        frequency = breakdown.by_frequency(
            nats,
            self._units(subset),
            subset.ids[scores.text],
            self.splits.train.ids,
            self.model.vocab_size,
            self.bootstrap,
            self.objective.metric_prefix,
        )
        windows = self.windows.model_dump(include={"window_tokens", "context_tokens"})
        return (
            {"protocol": self.objective.protocol, **windows, **self._numbers(nats, subset, counts)},
            frequency,
            scores,
        )

    def cold_windows(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """The test split in windows without context; and the loss by position in them."""
        window = self.settings.cold_window_tokens
        subset, counts = self.subset(self.splits.test.counts["tokens"])
        # As many tokens a batch as in windows with context.
        batch_size = max(1, self.windows.batch_size * self.windows.window_tokens // window)
        settings = Evaluate(batch_size=batch_size, window_tokens=window, context_tokens=0)
        scores = split_nll(self.model, subset.ids, subset.starts, settings)
        nats = scores.nats[scores.text]
        block = {"protocol": "cold_windows", "window_tokens": window, **self._numbers(nats, subset, counts)}
        if self.objective.both_sides:
            return block, []
        return block, breakdown.by_position(nats, self._units(subset), subset.lengths(), window, self.bootstrap)

    def neural_cache(self, static: SplitNLL) -> dict[str, Any]:
        """With a neural cache; `static` is what `static()` returned."""
        grid = self.settings.cache
        validation = head(self.splits.validation.ids, self.splits.validation.starts, grid.validation_tokens)
        tuned_on = split_nll(self.model, validation.ids, validation.starts, self.windows, keep_features=True)
        chosen, trials = cache.tune(tuned_on, validation.ids, grid)
        subset, counts = self.subset(min(grid.test_tokens, self.splits.test.counts["tokens"]))
        if static.features is None:
            static = split_nll(self.model, subset.ids, subset.starts, self.windows, keep_features=True)
        adapted = cache.cached_nll(static, subset.ids, chosen)
        facts = {"protocol": "neural_cache", "reference": "Grave, Joulin & Usunier 2017, arXiv:1612.04426"}
        return facts | self._adaptive(adapted, static.nats[static.text], subset, counts, chosen, trials, validation)

    def dynamic_evaluation(self) -> dict[str, Any]:
        """With dynamic evaluation."""
        grid = self.settings.dynamic
        validation = head(self.splits.validation.ids, self.splits.validation.starts, grid.validation_tokens)
        subset, counts = self.subset(min(grid.test_tokens, self.splits.test.counts["tokens"]))
        static = split_nll(self.model, subset.ids, subset.starts, self.windows)
        with dynamic.dynamic_evaluator(self.model, grid.segment_tokens) as evaluator:
            evaluator.collect_statistics(self.splits.train.ids, grid.statistics_tokens)
            chosen, trials = dynamic.tune(evaluator, validation, grid)
            adapted = evaluator.nll(subset, **chosen)
        facts = {
            "protocol": "dynamic_evaluation",
            "reference": "Krause, Kahembwe, Murray & Renals 2018, arXiv:1709.07432",
            "segment_tokens": grid.segment_tokens,
            "statistics_tokens": grid.statistics_tokens,
        }
        if not np.isfinite(adapted).all():  # diverged here, though not on validation text
            tuned_on = {"split": "validation", "tokens": validation.tokens, "chosen": chosen, "trials": trials}
            return facts | {"problem": "diverged: lower diagnose.dynamic.learning_rates", "tuned_on": tuned_on}
        return facts | self._adaptive(adapted, static.nats[static.text], subset, counts, chosen, trials, validation)

    def _units(self, subset: Subset) -> Int[np.ndarray, "text"]:
        """The bootstrap unit of each token of text: windows of `evaluate.window_tokens`."""
        counts = [
            min(self.windows.window_tokens, length - begin)
            for length in subset.lengths()
            for begin in range(0, length, self.windows.window_tokens)
        ]
        return np.repeat(np.arange(len(counts)), counts)

    def _adaptive(
        self,
        nats: Float[np.ndarray, "text"],
        static: Float[np.ndarray, "text"],
        subset: Subset,
        counts: list[Counts],
        chosen: dict[str, Any],
        trials: list[dict[str, Any]],
        validation: Subset,
    ) -> dict[str, Any]:
        gain = static.astype(np.float64) - nats
        units = self._units(subset)
        return {
            "problem": None,
            "tuned_on": {"split": "validation", "tokens": validation.tokens, "chosen": chosen, "trials": trials},
            "whole_split": subset.tokens == self.splits.test.counts["tokens"],
            **self._numbers(nats, subset, counts),
            "static_on_the_same_tokens": describe(total(static), sum_counts(counts)),
            "gain_nats_per_token": float(gain.mean()),
            "gain_interval_over_windows": self.bootstrap.ratio(np.bincount(units, gain), np.bincount(units)),
        }

    def _numbers(self, nats: Float[np.ndarray, "text"], subset: Subset, counts: list[Counts]) -> dict[str, Any]:
        """The loss in every unit, with bootstrap intervals over documents and over windows."""
        sums = np.array([document.sum(dtype=np.float64) for document in _by_document(nats, subset)])
        rows = [document.totals() for document in counts]
        prefix = self.objective.metric_prefix

        def over(name: str, to: Any) -> Any:
            return self.bootstrap.ratio(sums, np.array([row[name] for row in rows]), to)

        units = self._units(subset)
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
            **describe(total(nats), sum_counts(counts), prefix),
            "documents": len(rows),
            "intervals_over_documents": {prefix + name: value for name, value in over_documents.items()},
            "windows": len(window_tokens),
            "intervals_over_windows": {prefix + name: value for name, value in over_windows.items()},
        }


def _bits(nats: float) -> float:
    return nats / math.log(2)


def _by_document(nats: Float[np.ndarray, "text"], subset: Subset) -> list[Float[np.ndarray, "text"]]:
    """The losses of each document."""
    ends = np.cumsum([0, *subset.lengths()])
    return [nats[start:stop] for start, stop in pairwise(ends)]
