"""Adaptive scores against their formulas, token by token."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from configs import PARAMS
from tiny_models import CAUSAL, CLOZE, VOCABULARY, make, split_of
from torch.nn import functional as F

from recurlm.config import Dynamic, Evaluate, override
from recurlm.diagnostics import breakdown, cache, dynamic
from recurlm.diagnostics.intervals import Bootstrap
from recurlm.diagnostics.likelihoods import split_nll
from recurlm.diagnostics.subset import Subset, head
from recurlm.evaluation.perplexity import exact, score, token_nll
from recurlm.evaluation.windows import batches, split_windows
from recurlm.tokens.files import ShardedIds

WINDOWS = Evaluate(batch_size=3, window_tokens=40, context_tokens=10)
ONE_STREAM = Evaluate(batch_size=1, window_tokens=10_000, context_tokens=0)
DRAWS = Bootstrap(samples=100, confidence=0.9, seed=1)


def dynamics(**changes: Any) -> Dynamic:
    return override(PARAMS.diagnose.dynamic, changes)


@pytest.mark.parametrize("name", [*CAUSAL, *CLOZE])
def test_single_tokens_sum_to_the_one_definition_of_a_score(name: str) -> None:
    model = make(name)
    ids, starts = split_of(151, 0, 1, 16, 9)
    scores = split_nll(model, ids, starts, WINDOWS)
    expected = score(model, ids, starts, **WINDOWS.model_dump())
    assert scores.score.tokens == expected.tokens == 177
    assert scores.score.nats == pytest.approx(expected.nats, rel=1e-7)
    assert np.isnan(scores.nats[starts[:-1]]).all()


@pytest.mark.parametrize("name", CAUSAL)
def test_every_score_rests_on_the_same_nats_per_token(name: str) -> None:
    """`token_nll` itself, the score, single tokens, a cache without weight, dynamic evaluation that hardly learns."""
    model = make(name)
    ids, starts = split_of(70, 1, 33)
    subset = Subset(ids, starts, documents=(0, 1, 2))
    (batch,) = batches(ids, split_windows(starts, 10_000, 0), batch_size=3)
    nats = np.full(len(ids), np.nan)
    with exact(model):
        nats[batch.positions] = token_nll(model, batch).nats[batch.scored]
    tokens = nats[~np.isnan(nats)]
    static = split_nll(model, ids, starts, ONE_STREAM, keep_features=True)
    np.testing.assert_allclose(static.nats[static.text], tokens, rtol=1e-5)
    no_weight = {"window": 20, "scaled_theta": 0.3, "lambda": 0.0}
    np.testing.assert_allclose(cache.cached_nll(static, ids, no_weight), tokens, rtol=1e-5)
    with dynamic.dynamic_evaluator(model, 16) as evaluator:
        evaluator.collect_statistics(ids, 64)
        np.testing.assert_allclose(evaluator.nll(subset, 1e-12, 0.0), tokens, rtol=1e-4)
    result = score(model, ids, starts, **ONE_STREAM.model_dump())
    assert result.nats / result.tokens == pytest.approx(tokens.mean(), rel=1e-6)


@pytest.mark.parametrize("name", CLOZE)
def test_a_cloze_model_s_score_and_its_single_tokens_rest_on_the_same_nats(name: str) -> None:
    model = make(name)
    ids, starts = split_of(70, 1, 33)
    nats = np.full(len(ids), np.nan)
    with exact(model):
        for batch in batches(ids, split_windows(starts, 10_000, 0, both_sides=True), batch_size=3):
            nats[batch.positions] = token_nll(model, batch).nats[batch.scored]
    static = split_nll(model, ids, starts, ONE_STREAM)
    np.testing.assert_allclose(static.nats, nats, rtol=1e-5)
    result = score(model, ids, starts, **ONE_STREAM.model_dump())
    assert result.nats / result.tokens == pytest.approx(np.nanmean(nats), rel=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_features_are_what_the_decoder_predicts_each_token_from(name: str) -> None:
    model = make(name)
    ids, starts = split_of(60, 5)
    scores = split_nll(model, ids, starts, WINDOWS, keep_features=True)
    assert scores.features is not None
    log_p = F.log_softmax(model.decoder(torch.from_numpy(scores.features)), dim=-1)
    again = -log_p[torch.arange(len(ids)), torch.from_numpy(ids.astype(np.int64))]
    np.testing.assert_allclose(again[scores.text], scores.nats[scores.text], rtol=1e-5)


def naive_cache(h: np.ndarray, x: np.ndarray, window: int, theta: float) -> list[float]:
    """The formula of Grave et al., one token and one pair at a time."""
    probabilities = []
    for t in range(len(x)):
        pairs = range(max(0, t - window), t)
        weights = [math.exp(theta * float(h[t] @ h[i])) for i in pairs]
        probabilities.append(
            sum(w for w, i in zip(weights, pairs, strict=True) if x[i] == x[t]) / sum(weights) if weights else 0
        )
    return probabilities


@pytest.mark.parametrize("queries", [1, 7, 256])
def test_the_cache_is_the_paper_s_formula(queries: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "QUERIES", queries)
    random = np.random.default_rng(1)
    h, x = random.normal(size=(50, 4)).astype(np.float32), random.integers(0, 5, 50)
    probabilities = cache.cache_probabilities(h, x, windows=[3, 100], thetas=[0.0, 0.7])
    for row, window in enumerate([3, 100]):
        for column, theta in enumerate([0.0, 0.7]):
            np.testing.assert_allclose(
                probabilities[row, column], naive_cache(h, x, window, theta), rtol=1e-4, atol=1e-6
            )


def test_the_cache_gives_all_its_weight_to_some_token() -> None:
    random = np.random.default_rng(2)
    h, x = random.normal(size=(20, 4)).astype(np.float32), random.integers(0, 5, 20)
    total = sum(cache.cache_probabilities(h, np.append(x[:-1], last), [8], [0.5])[0, 0, -1] for last in range(5))
    assert total == pytest.approx(1, abs=1e-5)


def test_a_cached_score_is_a_mixture_and_starts_afresh_with_each_document() -> None:
    model = make("gru")
    ids, starts = split_of(40, 30)
    scores = split_nll(model, ids, starts, ONE_STREAM, keep_features=True)
    chosen = {"window": 10, "scaled_theta": 0.3, "lambda": 0.25}
    mixed = cache.cached_nll(scores, ids, chosen)
    expected = []
    for start, stop in pairwise(starts):
        p = np.exp(-scores.nats[start + 1 : stop])
        cached = naive_cache(scores.features[start + 1 : stop], ids[start + 1 : stop], 10, 0.3)
        expected += [p[0], *(0.75 * p[1:] + 0.25 * np.array(cached[1:]))]
    np.testing.assert_allclose(np.exp(-mixed), expected, rtol=1e-4)


def test_what_is_tuned_is_the_best_that_was_tried() -> None:
    model = make("rnn")
    ids, starts = split_of(200)
    scores = split_nll(model, ids, starts, ONE_STREAM, keep_features=True)
    grid = override(PARAMS.diagnose.cache, {"window": (5, 50), "theta": (0.0, 2.0), "lambda": (0.05, 0.5)})
    chosen, trials = cache.tune(scores, ids, grid)
    best = min(trial["nats_per_token"] for trial in trials)
    again = cache.cached_nll(scores, ids, chosen)
    assert again.mean() == pytest.approx(best, rel=1e-6)
    assert len(trials) == 4


@pytest.mark.parametrize("name", CAUSAL)
def test_dynamic_evaluation_leaves_the_model_as_it_was(name: str) -> None:
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    cudnn = torch.backends.cudnn.enabled
    subset = Subset(*split_of(50, 30), documents=(0, 1))
    with dynamic.dynamic_evaluator(model, 8) as evaluator:
        evaluator.collect_statistics(subset.ids, 40)
        assert not torch.backends.cudnn.enabled  # it has no backward pass in evaluation mode
        first = evaluator.nll(subset, 0.01, 0.1)
        assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
        np.testing.assert_array_equal(evaluator.nll(subset, 0.01, 0.1), first)
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not model.training
    assert torch.backends.cudnn.enabled == cudnn
    assert len(first) == subset.tokens


def test_a_learning_rate_of_next_to_nothing_gives_the_static_score() -> None:
    model = make("lstm")
    subset = Subset(*split_of(70, 1, 33), documents=(0, 1, 2))
    static = split_nll(model, subset.ids, subset.starts, ONE_STREAM)
    with dynamic.dynamic_evaluator(model, 16) as evaluator:
        evaluator.collect_statistics(subset.ids, 64)
        np.testing.assert_allclose(evaluator.nll(subset, 1e-12, 0.0), static.nats[static.text], rtol=1e-4)


def test_dynamic_evaluation_is_the_paper_s_update() -> None:
    """Each segment scored by a model that was updated by hand, weight by weight, with plain autograd."""
    ids, starts = split_of(24)
    η, λ, segment = 0.02, 0.3, 6
    model = make("gru")
    with dynamic.dynamic_evaluator(model, segment) as evaluator:
        evaluator.collect_statistics(ids, 24)
        squares = [square.clone() for square in evaluator.mean_squares]
        losses = evaluator.nll(Subset(ids, starts, (0,)), η, λ)

    roots = [square.sqrt() for square in squares]
    mean = torch.cat([root.flatten() for root in roots]).mean()
    slow = make("gru").requires_grad_(True)
    trained = [weight.detach().clone() for weight in slow.parameters()]
    state, expected = slow.initial_state(1), []
    for begin in range(0, 24, segment):
        nats = []
        for position in range(begin, min(begin + segment, 24)):
            logits, state = slow.step(torch.tensor([int(ids[position])]), state)
            nats.append(F.cross_entropy(logits, torch.tensor([int(ids[position + 1])])))
        expected += [loss.item() for loss in nats]
        slow.zero_grad()
        torch.stack(nats).mean().backward()
        state = {name: value.detach() for name, value in state.items()}
        with torch.no_grad():
            for weight, start, root in zip(slow.parameters(), trained, roots, strict=True):
                pull = torch.clamp(λ * root / mean, max=1) * (start - weight)
                weight += pull - η * weight.grad / (root + dynamic.EPSILON * mean)
    np.testing.assert_allclose(losses, expected, rtol=1e-4)


def test_adapting_to_a_text_that_repeats_itself_helps() -> None:
    model = make("gru", std=0.2)
    ids = np.array([0] + [2, 3, 4, 5, 6] * 80, np.uint16)
    subset = Subset(ids, np.array([0, len(ids)]), (0,))
    with dynamic.dynamic_evaluator(model, 10) as evaluator:
        evaluator.collect_statistics(ids, 100)
        chosen, trials = dynamic.tune(evaluator, subset, dynamics(learning_rates=(1e-9, 0.01), decays=(0.0, 0.5)))
        adapted = evaluator.nll(subset, **chosen)
    assert chosen["learning_rate"] == 0.01
    assert adapted.mean() < split_nll(model, subset.ids, subset.starts, ONE_STREAM).score.nats / 400 - 0.5
    assert len(trials) == 3


def test_the_loss_by_frequency_has_the_prefix_of_the_objective() -> None:
    nats, ids = np.ones(4, np.float32), np.array([2, 2, 3, 4])
    rows = breakdown.by_frequency(nats, np.arange(4), ids, np.array([2, 2, 3]), VOCABULARY, DRAWS, "pseudo_")
    assert [(row["from"], row["to"], row["fraction"]) for row in rows] == [(0, 0, 0.25), (1, 2, 0.75)]
    assert all("pseudo_nats_per_token" in row and "nats_per_token" not in row for row in rows)


def test_the_train_split_is_counted_a_part_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    class Text(ShardedIds):
        def __getitem__(self, index: Any) -> np.ndarray:
            found = super().__getitem__(index)
            asked.append(len(found))
            return found

        def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
            raise AssertionError("the whole")

    ids = np.random.default_rng(1).integers(2, VOCABULARY, 103).astype(np.uint16)
    nats, units = np.ones(103, np.float32), np.arange(103)
    rows = breakdown.by_frequency(nats, units, ids, ids, VOCABULARY, DRAWS)
    monkeypatch.setattr(breakdown, "CHUNK", 10)
    assert breakdown.by_frequency(nats, units, ids, Text([ids[:47], ids[47:]]), VOCABULARY, DRAWS) == rows
    assert (max(asked), sum(asked)) == (10, 103)


def test_positions_and_frequencies_split_the_same_sum() -> None:
    model = make("rnn")
    ids, starts = split_of(100, 7, 55)
    scores = split_nll(model, ids, starts, Evaluate(batch_size=4, window_tokens=16, context_tokens=0))
    nats, units = scores.nats[scores.text], np.arange(162) // 16
    lengths = [100, 7, 55]
    tables = {
        "position": breakdown.by_position(nats, units, lengths, 16, DRAWS),
        "frequency": breakdown.by_frequency(nats, units, ids[scores.text], ids[:50], VOCABULARY, DRAWS),
    }
    for rows in tables.values():
        assert sum(row["tokens"] for row in rows) == 162
        total = sum(row["tokens"] * row["nats_per_token"] for row in rows if row["tokens"])
        assert total == pytest.approx(float(nats.sum(dtype=np.float64)))
    first = tables["position"][0]
    assert (first["from"], first["to"]) == (1, 1)
    assert first["tokens"] == 7 + 1 + 4  # windows of 16 in documents of 100, 7 and 55 tokens
    begins = [0, 16, 32, 48, 64, 80, 96, 100, 107, 123, 139, 155]
    assert first["nats_per_token"] == pytest.approx(float(nats[begins].mean()), rel=1e-6)


def test_a_cold_window_has_read_one_token_when_it_predicts_its_first() -> None:
    model = make("lstm")
    ids, starts = split_of(20)
    scores = split_nll(model, ids, starts, Evaluate(batch_size=2, window_tokens=5, context_tokens=0))
    for first in (1, 6, 11, 16):
        logits, _ = model.step(torch.tensor([int(ids[first - 1])]), model.initial_state(1))
        assert scores.nats[first] == pytest.approx(
            F.cross_entropy(logits, torch.tensor([int(ids[first])])).item(), rel=1e-5
        )


def test_a_subset_is_the_split_or_the_first_tokens_of_its_documents() -> None:
    ids, starts = split_of(3000, 10, 5000)
    whole = head(ids, starts, 8010)
    np.testing.assert_array_equal(whole.ids, ids)
    np.testing.assert_array_equal(whole.starts, starts)
    subset = head(ids, starts, 4100)
    assert subset.lengths() == [2048, 10, 2042]
    assert subset.tokens == 4100
    np.testing.assert_array_equal(subset.ids[subset.starts[2] :], ids[starts[2] : starts[2] + 2043])
    assert head(ids, starts, 100).lengths() == [100]


def test_a_learning_rate_that_diverges_is_a_trial_without_a_loss() -> None:
    subset = Subset(*split_of(120), documents=(0,))
    with dynamic.dynamic_evaluator(make("rnn"), 8) as evaluator:
        evaluator.collect_statistics(subset.ids, 64)
        chosen, trials = dynamic.tune(evaluator, subset, dynamics(learning_rates=(1e-6, 1e38), decays=(0.0,)))
    assert chosen == {"learning_rate": 1e-6, "decay": 0.0}
    assert trials[1]["nats_per_token"] is None
