"""The metrics of a split, with their units in their names, beside the counts that they are divided by."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from recurlm.errors import InputError
from recurlm.evaluation.perplexity import Score

COUNTS = ("tokens", "words", "bytes", "characters")


def describe(score: Score, counts: Mapping[str, Any], prefix: str = "") -> dict[str, float | int | None]:
    """The metrics of one split, from its score and the counts in its manifest.

    A rate over a count of 0 is None, and so is a perplexity that overflows.

    Args:
        prefix: of the names: "pseudo_" for a cloze model's pseudo-likelihoods (`Objective.metric_prefix`).

    Raises:
        InputError: the split has no tokens, not all of them were scored, or the model's likelihoods are not finite.
    """
    if counts["tokens"] == 0:
        raise InputError("data/tokens: the split has no tokens: add text, or give it a larger share")
    if score.tokens != counts["tokens"]:
        raise InputError(f"data/tokens: {score.tokens} tokens, but {counts['tokens']} in the manifest: tokenize again")
    if not math.isfinite(score.nats):
        raise InputError("the model's likelihoods are not finite: train it again with lower learning rates")
    nats_per_word = _rate(score.nats, counts["words"])
    values = {
        "nats_per_token": score.nats / score.tokens,
        "perplexity_per_token": _exp(score.nats / score.tokens),
        "perplexity_per_word": None if nats_per_word is None else _exp(nats_per_word),
        "bits_per_byte": score.nats / math.log(2) / counts["bytes"],
        "bits_per_character": score.nats / math.log(2) / counts["characters"],
    }
    return {
        **{prefix + name: value for name, value in values.items()},
        **{name: counts[name] for name in COUNTS},
        "out_of_vocabulary_rate": _rate(counts["out_of_vocabulary_words"], counts["words"]),
    }


def _rate(amount: float | int, count: int) -> float | None:
    return amount / count if count else None


def _exp(nats: float) -> float | None:
    try:
        return math.exp(nats)
    except OverflowError:
        return None
