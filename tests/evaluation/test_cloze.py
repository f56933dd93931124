"""The score of a cloze model: pseudo-likelihoods that never read the token itself."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from configs import model_config
from tiny_models import CLOZE
from torch import nn
from torch.nn import functional as F

from recurlm.evaluation.perplexity import exact, score, token_nll
from recurlm.evaluation.windows import batches, split_windows
from recurlm.model import LanguageModel, build

VOCABULARY = 11
every_cloze = pytest.mark.parametrize("name", CLOZE)


def make(name: str) -> LanguageModel:
    torch.manual_seed(1)
    model = build(name, model_config(name, hidden_size=7, dropout=0.5), VOCABULARY)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model.eval().requires_grad_(False)


def split_of(*lengths: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(4)
    documents = [np.concatenate([[0], random.integers(1, VOCABULARY, length)]) for length in lengths]
    return np.concatenate(documents).astype(np.uint16), np.cumsum([0, *(len(document) for document in documents)])


@every_cloze
@pytest.mark.parametrize("batch", [1, 3])
def test_changing_a_token_never_changes_the_distribution_at_its_place_and_changes_all_others(
    name: str, batch: int
) -> None:
    model = make(name)
    tokens = torch.randint(VOCABULARY, (batch, 9))
    state = {key: torch.randn(batch, *shape) for key, shape in model.recurrence.state_spec.items()}
    before, _ = model(tokens, state)
    for t in range(9):
        changed = tokens.clone()
        changed[:, t] = (tokens[:, t] + 1) % VOCABULARY
        after, _ = model(changed, state)
        assert torch.equal(after[:, t], before[:, t])
        others = [other for other in range(9) if other != t]
        assert (after[:, others] != before[:, others]).any(dim=-1).all()


@every_cloze
def test_the_scores_of_a_place_sum_to_one_over_all_tokens_that_may_stand_there(name: str) -> None:
    """Only a model that does not read the token itself can give every candidate its share."""
    model = make(name)
    ids, starts = split_of(9)
    (batch,) = batches(ids, split_windows(starts, 100, 0, both_sides=True), batch_size=1)
    for t in range(1, 10):
        probability = 0.0
        for candidate in range(VOCABULARY):
            tokens = batch.tokens.copy()
            tokens[0, t] = candidate
            with exact(model):
                nats = token_nll(model, batch._replace(tokens=tokens)).nats
            probability += float(np.exp(-nats[0, t - 1]))
        assert probability == pytest.approx(1, abs=1e-5)


def naive_nats(model: LanguageModel, ids: np.ndarray, starts: np.ndarray, window: int, context: int) -> float:
    """One token at a time: a walk from the left up to it and a walk from the right down to it, never onto it."""

    def walk(positions: range, side: str) -> torch.Tensor:
        state = model.initial_state(1)
        for position in positions:
            _, state = model.step(torch.tensor([int(ids[position])]), state)
        y, _ = model.recurrence.step(torch.zeros(1, model.embedding.embedding_dim), state)
        return y.chunk(2, dim=-1)[side == "right"]

    nats = 0.0
    for head, tail in pairwise(starts):
        for first in range(head + 1, tail, window):
            end = min(first + window, tail)
            begin, stop = max(head, first - max(context, 1)), min(end + context, tail)
            for t in range(first, end):
                known = torch.cat([walk(range(begin, t), "left"), walk(range(stop - 1, t, -1), "right")], dim=-1)
                logits = model.decoder(model.projection(known))[0]
                nats -= float(F.log_softmax(logits.double(), dim=0)[int(ids[t])])
    return nats


@every_cloze
@pytest.mark.parametrize(("window", "context"), [(100, 0), (7, 3), (4, 9), (5, 0)])
def test_a_naive_scorer_agrees(name: str, window: int, context: int) -> None:
    model = make(name)
    ids, starts = split_of(17, 0, 1, 7)
    result = score(model, ids, starts, window, context, batch_size=3)
    assert result.tokens == 25
    assert result.nats == pytest.approx(naive_nats(model, ids, starts, window, context), rel=1e-6)


@every_cloze
def test_the_batch_size_changes_nothing_but_float_rounding(name: str) -> None:
    """Short documents beside long ones: padding would change what is read from the right."""
    ids, starts = split_of(130, 2, 75, 0, 41, 2, 75)
    model = make(name)
    scores = [score(model, ids, starts, 50, 10, batch_size) for batch_size in (1, 2, 3, 7, 1000)]
    assert {value.tokens for value in scores} == {325}
    assert [value.nats for value in scores] == pytest.approx([scores[0].nats] * 5, rel=1e-6)
