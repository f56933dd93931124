"""Short paired runs, measured times, and what a part of a split holds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_bundles import TOKENIZERS
from tiny_models import CAUSAL, CLOZE, block, make

from recurlm import config
from recurlm.config import Train
from recurlm.diagnostics import overfitting, speed
from recurlm.diagnostics.parts import Part, beginnings, count, total
from recurlm.errors import InputError
from recurlm.tokens.pieces import safe_pieces
from recurlm.tokens.tokenizer import KINDS
from recurlm.training.loop import Trained

SPECIAL = {"bos": 0, "mask": 1}
RECIPE = Train(seed=3, batch_size=4, sequence_length=16, precision="fp32", device="cpu")


def verse(tokens: int, seed: int) -> Part:
    """Random text over few tokens: there is nothing to learn but the text itself."""
    ids = np.random.default_rng(seed).integers(2, 20, tokens + 1)
    return Part(ids.astype(np.uint16), np.array([0, tokens + 1]), (0,))


@pytest.mark.parametrize("name", ["gru", "bilstm"])
def test_without_dropout_a_text_is_learned_by_heart_and_with_it_less_so(name: str) -> None:
    settings = config.Overfitting(epochs=12, hidden_size=32, batch_size=4, dropout=0.5, points=2)
    given = verse(400, 1), verse(200, 2)
    found = overfitting.paired(name, block(), *given, 20, SPECIAL, RECIPE, settings)
    without, with_dropout = found["runs"]
    assert without["problem"] is with_dropout["problem"] is None
    assert without["gap"] > with_dropout["gap"] > 0
    assert without["points"][-1]["train_nats_per_token"] < with_dropout["points"][-1]["train_nats_per_token"]
    assert overfitting.paired(name, block(), *given, 20, SPECIAL, RECIPE, settings) == found
    best = min(point["validation_nats_per_token"] for point in without["points"])
    assert without["best_validation_nats_per_token"] == best


def test_a_run_that_diverges_says_so_and_costs_the_other_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object) -> Trained:
        raise InputError("training diverged at step 7")

    monkeypatch.setattr(overfitting, "train", diverge)
    found = overfitting.paired("rnn", block(), verse(600, 1), verse(300, 2), 20, SPECIAL, RECIPE, config.Overfitting())
    assert [run["gap"] for run in found["runs"]] == [None, None]
    assert "diverged" in found["runs"][0]["problem"]


def test_the_gap_of_a_learning_curve_is_validation_less_training(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("step,tokens,train_loss,validation_loss,learning_rate\n5,100,3.0,3.5,0.1\n", encoding="utf-8")
    assert overfitting.learning_curve(path)[0]["gap"] == 0.5


@pytest.mark.parametrize("name", [*CAUSAL, *CLOZE])
def test_speed_is_measured_at_each_length_and_leaves_no_trace(name: str) -> None:
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = config.Speed(training_tokens=(2, 8), generated_tokens=(2, 8), batch_size=2, repeats=1)
    found = speed.measure(model, RECIPE, settings)
    assert [row["tokens"] for row in found["training_step"]] == [2, 8]
    assert all(row["seconds"] > 0 for row in found["training_step"] + found["generation"])
    assert (found["generation_growth"] is None) == (name in CLOZE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_growth_is_the_exponent_of_the_length(power: float) -> None:
    rows = [{"tokens": n, "seconds": 3 * n**power} for n in (4, 16, 100)]
    assert speed.growth(rows) == pytest.approx(power, abs=1e-9)
    assert speed.growth(rows[:1]) is None


class Corpus:
    """Documents in memory, told in pieces of a few characters."""

    def __init__(self, *documents: str) -> None:
        self.documents = documents

    def __len__(self) -> int:
        return len(self.documents)

    def pieces(self, document: int):  # type: ignore[no-untyped-def]
        text = self.documents[document]
        return (text[at : at + 7] for at in range(0, len(text), 7))


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_a_part_s_words_and_bytes_are_those_of_its_tokens_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recurlm.diagnostics.parts.SHORTEST", 1)
    tokenizer, cut = TOKENIZERS[kind], KINDS[kind].cut
    text = "the naïve king, the ghost and xyzzy storm.\nto be or not to be\n" * 3
    corpus = Corpus(text, "", "a crown of night")
    documents = [
        [id for piece in safe_pieces(corpus.pieces(number), cut) for id in tokenizer.encode(piece).ids]
        for number in range(3)
    ]
    ids = np.concatenate([[0, *document] for document in documents])
    starts = np.cumsum([0, *(len(document) + 1 for document in documents)])
    whole = total(count(beginnings(ids, starts, len(ids)), corpus, tokenizer, cut))
    assert whole["tokens"] == sum(map(len, documents))
    assert whole["bytes"] == sum(len(document.encode()) for document in corpus.documents)
    assert whole["words"] == sum(len(document.split()) for document in corpus.documents)

    some = beginnings(ids, starts, 30)
    (first, last) = (one.totals() for one in count(some, corpus, tokenizer, cut))
    assert first["tokens"] + last["tokens"] == some.tokens <= 30
    prefix = text[: first["characters"]]
    assert tokenizer.encode(prefix).ids[: first["tokens"]] == documents[0][: first["tokens"]]
    assert first["bytes"] == len(prefix.encode())
    assert first["words"] == len(prefix.split())


def test_another_text_than_the_tokens_is_refused() -> None:
    part = Part(np.array([0, 5, 6, 7, 8, 9, 10]), np.array([0, 7]), (0,))
    with pytest.raises(InputError, match="not that of data/corpus"):
        count(part, Corpus("to"), TOKENIZERS["word"], KINDS["word"].cut)
