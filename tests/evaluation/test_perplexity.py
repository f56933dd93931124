"""The score of a causal model: the same by any batch, any path, and close to one stream."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import model_config
from tiny_models import CAUSAL
from torch import nn
from torch.nn import functional as F

from recurlm.evaluation.perplexity import exact, score, token_nll, total
from recurlm.evaluation.windows import Batch, batches, split_windows
from recurlm.model import LanguageModel, build

VOCABULARY = 13
START = 0


def make(name: str) -> LanguageModel:
    torch.manual_seed(1)
    model = build(name, model_config(name, dropout=0.5), VOCABULARY)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def split_of(*lengths: int) -> tuple[np.ndarray, np.ndarray]:
    """Random documents of so many text tokens, as the files of a split hold them."""
    random = np.random.default_rng(4)
    documents = [np.concatenate([[START], random.integers(1, VOCABULARY, length)]) for length in lengths]
    starts = np.concatenate([[0], np.cumsum([len(document) for document in documents])])
    return np.concatenate(documents).astype(np.uint16), starts


def naive_nats(model: LanguageModel, ids: np.ndarray, starts: np.ndarray, window: int, context: int) -> float:
    """Token by token by `step`, one window after the other: no batch, no padding, no chunk."""
    nats = 0.0
    for head, tail in pairwise(starts):
        for first in range(head + 1, tail, window):
            state = model.initial_state(1)
            for position in range(max(head, first - max(context, 1)), min(first + window, tail) - 1):
                logits, state = model.step(torch.tensor([int(ids[position])]), state)
                if position + 1 >= first:
                    nats -= float(F.log_softmax(logits[0].double(), dim=0)[int(ids[position + 1])])
    return nats


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize(("window", "context"), [(1000, 0), (16, 5), (7, 30), (5, 0), (140, 20)])
def test_a_naive_scorer_agrees(name: str, window: int, context: int) -> None:
    model = make(name).eval()
    ids, starts = split_of(151, 0, 1, 16, 9)
    result = score(model, ids, starts, window, context, batch_size=3)
    assert result.tokens == 177
    with torch.no_grad():
        assert result.nats == pytest.approx(naive_nats(model, ids, starts, window, context), rel=1e-6)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_batch_size_changes_nothing_but_float_rounding(name: str) -> None:
    ids, starts = split_of(700, 3, 90, 0, 200)
    model = make(name)
    scores = [score(model, ids, starts, 100, 20, batch_size) for batch_size in (1, 2, 3, 7, 1000)]
    assert {value.tokens for value in scores} == {993}
    assert [value.nats for value in scores] == pytest.approx([scores[0].nats] * 5, rel=1e-6)


def test_the_same_inputs_give_the_same_bits() -> None:
    ids, starts = split_of(700, 90)
    assert score(make("lstm"), ids, starts, 100, 20, 4) == score(make("lstm"), ids, starts, 100, 20, 4)


def test_a_model_in_training_is_scored_without_dropout_or_autocast_and_goes_on_training() -> None:
    ids, starts = split_of(300)
    model = make("gru")
    expected = score(model.eval(), ids, starts, 100, 20, 4)
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        assert score(model, ids, starts, 100, 20, 4) == expected
        assert torch.is_autocast_enabled("cpu")
    assert model.training
    assert torch.backends.cudnn.rnn.fp32_precision == "tf32"  # torch's default, put back


def test_progress_gets_every_scored_token() -> None:
    ids, starts = split_of(300, 50)
    counts: list[int] = []
    score(make("rnn"), ids, starts, 100, 20, 2, progress=counts.append)
    assert sum(counts) == 350
    assert len(counts) > 1


def test_any_scorer_can_sum_over_the_same_tokens() -> None:
    ids, starts = split_of(300, 50)

    def uniform(batch: Batch) -> np.ndarray:
        nats = np.full(batch.scored.shape, np.nan, dtype=np.float32)  # what a scorer returns elsewhere must not count
        nats[batch.scored] = math.log(VOCABULARY)
        return nats

    result = total(batches(ids, split_windows(starts, 64, 16), batch_size=4), uniform)
    assert result.tokens == 350
    assert result.nats == pytest.approx(350 * math.log(VOCABULARY), rel=1e-6)


def test_a_split_without_text_scores_nothing() -> None:
    assert score(make("rnn"), np.zeros(2, np.uint16), np.array([0, 1, 2]), 10, 3, 2) == (0.0, 0)


def synthetic_text(characters: int, seed: int) -> str:
    """Made-up verse in which a sentence's first word decides its last one."""
    random = np.random.default_rng(seed)
    endings = {"the king ": "reigns", "the fool ": "laughs", "the ghost ": "walks", "my lady ": "weeps"}
    middles = ["of the night ", "by the sea ", "in old england ", "with the crown ", "and none but "]
    text = ""
    while len(text) < characters:
        subject = str(random.choice(list(endings)))
        text += subject + "".join(random.choice(middles, size=random.integers(1, 4))) + endings[subject] + ".\n"
    return text[:characters]


@pytest.fixture(scope="module")
def trained() -> tuple[LanguageModel, np.ndarray]:
    """A small LSTM that has learned made-up verse, and the ids of more such verse."""
    alphabet = sorted(set(synthetic_text(5000, seed=1)))
    encode = {character: number + 1 for number, character in enumerate(alphabet)}
    ids = torch.tensor([encode[character] for character in synthetic_text(20_000, seed=1)])
    torch.manual_seed(1)
    small = model_config("lstm", embedding_size=24, hidden_size=48, layers=1, concat_layers=False)
    model = build("lstm", small, len(alphabet) + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02)
    columns = ids.view(20, -1)
    state = model.initial_state(20)
    for begin in [*range(0, columns.shape[1] - 50, 50)] * 3:
        detached = {name: value.detach() for name, value in state.items()}
        logits, state = model(columns[:, begin : begin + 50], detached)
        loss = F.cross_entropy(logits.flatten(0, 1), columns[:, begin + 1 : begin + 51].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    held_out = [START, *(encode[character] for character in synthetic_text(8_000, seed=2))]
    return model, np.array(held_out, dtype=np.uint16)


def test_windows_lie_within_a_thousandth_of_a_nat_of_one_stream(trained: tuple[LanguageModel, np.ndarray]) -> None:
    model, ids = trained
    starts = np.array([0, len(ids)])

    def nats_per_token(window: int, context: int) -> float:
        result = score(model, ids, starts, window, context, batch_size=16)
        assert result.tokens == 8000
        return result.nats / result.tokens

    one_stream = nats_per_token(window=len(ids), context=0)
    assert one_stream < 0.6  # it has learned the verse, so that context matters
    assert abs(nats_per_token(window=256, context=128) - one_stream) < 0.001
    assert abs(nats_per_token(window=1024, context=256) - one_stream) < 0.001
    assert nats_per_token(window=256, context=0) - one_stream > 0.001  # what the context is for


def test_chunks_of_time_carry_the_state_exactly(trained: tuple[LanguageModel, np.ndarray]) -> None:
    model, ids = trained
    (batch,) = batches(ids[:1001], split_windows(np.array([0, 1001]), 1000, 0), batch_size=1)
    tokens = torch.from_numpy(batch.tokens)
    with torch.no_grad():
        whole, _ = model(tokens[:, :-1], model.initial_state(1))
        expected = F.cross_entropy(whole[0], tokens[0, 1:], reduction="none")
    with exact(model):
        nats = token_nll(model, batch).nats
    torch.testing.assert_close(torch.from_numpy(nats)[0], expected, rtol=1e-4, atol=1e-5)


def test_logits_never_fill_the_memory_however_large_the_vocabulary() -> None:
    program = """
import resource
import numpy, torch
from configs import model_config
from recurlm.evaluation.perplexity import score
from recurlm.model import build
model = build("gru", model_config("gru", embedding_size=4, hidden_size=4), 200_000)
ids = numpy.random.default_rng(1).integers(0, 200_000, 16 * 33).astype(numpy.uint32)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
assert score(model, ids, numpy.arange(0, 16 * 33 + 1, 33), 32, 0, batch_size=16).tokens == 512
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    tests = str(Path(__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([tests, *sys.path])}
    command = [sys.executable, "-c", program]
    result = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    assert int(result.stdout) < 300_000  # kilobytes; the logits of all and their softmax would be 800,000
