"""The numbers of a split, from a sum and counts."""

from __future__ import annotations

import json
import math

import pytest

from recurlm.errors import InputError
from recurlm.evaluation.perplexity import Score, describe
from recurlm.objective import Cloze

COUNTS = {
    "tokens": 100,
    "words": 20,
    "bytes": 130,
    "characters": 125,
    "unknown_tokens": 0,
    "out_of_vocabulary_words": 5,
    "documents": 2,
}


def test_each_number_is_the_sum_over_its_count() -> None:
    assert describe(Score(nats=200.0, tokens=100), COUNTS) == {
        "nats_per_token": 2.0,
        "perplexity_per_token": pytest.approx(math.e**2),
        "perplexity_per_word": pytest.approx(math.e**10),
        "bits_per_byte": pytest.approx(200 * math.log2(math.e) / 130),
        "bits_per_character": pytest.approx(200 * math.log2(math.e) / 125),
        "tokens": 100,
        "words": 20,
        "bytes": 130,
        "characters": 125,
        "out_of_vocabulary_rate": 0.25,
    }


def test_a_uniform_guess_over_bytes_is_eight_bits_a_byte() -> None:
    metrics = describe(Score(130 * math.log(256), tokens=100), COUNTS)
    assert metrics["bits_per_byte"] == pytest.approx(8)


def test_a_cloze_model_s_likelihoods_say_that_they_are_pseudo_and_its_counts_do_not() -> None:
    causal = describe(Score(200.0, 100), COUNTS)
    cloze = describe(Score(200.0, 100), COUNTS, Cloze.metric_prefix)
    assert list(cloze.values()) == list(causal.values())
    counts = {"tokens", "words", "bytes", "characters", "out_of_vocabulary_rate"}
    assert set(cloze) == counts | {f"pseudo_{name}" for name in set(causal) - counts}


@pytest.mark.parametrize("changes", [{"words": 1}, {"words": 0}])
def test_a_perplexity_beyond_floats_and_a_rate_over_nothing_are_null(changes: dict[str, int]) -> None:
    metrics = describe(Score(nats=2000.0, tokens=100), COUNTS | changes)
    assert metrics["perplexity_per_word"] is None
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics


@pytest.mark.parametrize(
    ("score", "counts", "message"),
    [
        (Score(0.0, 0), COUNTS | {"tokens": 0}, "no tokens"),
        (Score(200.0, 99), COUNTS, "99 tokens, but 100"),
        (Score(math.nan, 100), COUNTS, "not finite"),
        (Score(math.inf, 100), COUNTS, "not finite"),
    ],
)
def test_nonsense_is_refused(score: Score, counts: dict[str, int], message: str) -> None:
    with pytest.raises(InputError, match=message):
        describe(score, counts)
