"""Short paired runs, measured times, and the counts of a subset."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from configs import PARAMS, model_config, train_config
from tiny_bundles import TOKENIZERS
from tiny_models import CLOZE, small_config
from tiny_training import Texts

from recurlm.config import Overfitting, Tokenize, override
from recurlm.diagnostics import overfitting
from recurlm.diagnostics.subset import Subset, count_text, head, sum_counts
from recurlm.errors import InputError
from recurlm.tokens.encode import write_tokens
from recurlm.tokens.files import open_tokens
from recurlm.tokens.pieces import safe_pieces
from recurlm.tokens.tokenizer import KINDS, load_tokenizer
from recurlm.training.state import TrainResult

SPECIAL = {"bos": 0, "mask": 1}
TRAIN = train_config(
    **{"seed": 3, "precision": "fp32", "device": "cpu", "data.batch_size": 4, "data.sequence_length": 16}
)


def overfit(**changes: Any) -> Overfitting:
    return override(PARAMS.diagnose.overfitting, changes)


def verse(tokens: int, seed: int) -> Subset:
    """Random text over few tokens, which a model can only memorize."""
    ids = np.random.default_rng(seed).integers(2, 20, tokens + 1)
    return Subset(ids.astype(np.uint16), np.array([0, tokens + 1]), (0,))


@pytest.mark.parametrize("name", ["gru", "bilstm"])
def test_without_dropout_a_model_overfits_and_with_it_less_so(name: str) -> None:
    settings = overfit(epochs=12, hidden_size=32, batch_size=4, dropout=0.5, num_evals=2)
    config, subsets = small_config(name), (verse(400, 1), verse(200, 2))
    prefix = "pseudo_" if name in CLOZE else ""
    block = overfitting.paired(name, config, *subsets, 20, SPECIAL, TRAIN, settings)
    without, with_dropout = block["runs"]
    assert without["problem"] is with_dropout["problem"] is None
    assert without["gap"] > with_dropout["gap"] > 0
    key = f"{prefix}train_nats_per_token"
    assert without["points"][-1][key] < with_dropout["points"][-1][key]
    assert overfitting.paired(name, config, *subsets, 20, SPECIAL, TRAIN, settings) == block
    best = min(point[f"{prefix}validation_nats_per_token"] for point in without["points"])
    assert without[f"{prefix}best_validation_nats_per_token"] == best


def test_a_run_that_diverges_says_so_and_costs_the_other_blocks_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def diverge(*_: object) -> TrainResult:
        raise InputError("training diverged at step 7")

    monkeypatch.setattr(overfitting, "train", diverge)
    subsets = verse(600, 1), verse(300, 2)
    block = overfitting.paired("rnn", small_config("rnn"), *subsets, 20, SPECIAL, TRAIN, overfit())
    assert [run["gap"] for run in block["runs"]] == [None, None]
    assert "diverged" in block["runs"][0]["problem"]


@pytest.mark.parametrize(("heads", "hidden_size"), [(6, 126), (12, 132), (4, 128), (1, 128), (300, 300)])
def test_a_short_run_s_size_is_the_nearest_that_the_heads_divide(
    monkeypatch: pytest.MonkeyPatch, heads: int, hidden_size: int
) -> None:
    tried: list[int] = []

    def train(*arguments: Any) -> TrainResult:
        tried.append(arguments[4].hidden_size)
        raise InputError("enough")

    monkeypatch.setattr(overfitting, "train", train)
    config = model_config("transformer", heads=heads, hidden_size=4 * heads)
    block = overfitting.paired("t", config, verse(600, 1), verse(300, 2), 20, SPECIAL, TRAIN, overfit())
    assert block["model"]["hidden_size"] == hidden_size
    assert tried == [hidden_size, hidden_size]


def test_a_model_that_cannot_be_small_costs_the_other_blocks_nothing() -> None:
    config = model_config("mamba3", heads=100, hidden_size=400)
    block = overfitting.paired("m", config, verse(600, 1), verse(300, 2), 20, SPECIAL, TRAIN, overfit())
    assert [run["problem"] for run in block["runs"]] == 2 * [
        "params.yaml: 'variants.m': a key of 1 has no pair that turns"
    ]


def test_the_gap_of_a_learning_curve_is_validation_less_training(tmp_path: Path) -> None:
    path = tmp_path / "curve.csv"
    path.write_text("step,tokens,train_loss,validation_loss,learning_rate\n5,100,3.0,3.5,0.1\n", encoding="utf-8")
    (point,) = overfitting.learning_curve(path, "pseudo_")
    assert point["gap"] == 0.5
    assert (point["pseudo_train_nats_per_token"], point["pseudo_validation_nats_per_token"]) == (3.0, 3.5)


class Corpus:
    """Documents in memory, in pieces of a few characters."""

    def __init__(self, *documents: str) -> None:
        self.documents = documents

    def __len__(self) -> int:
        return len(self.documents)

    def pieces(self, document: int):  # type: ignore[no-untyped-def]
        text = self.documents[document]
        return (text[start : start + 7] for start in range(0, len(text), 7))


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
def test_a_subset_s_words_and_bytes_are_those_of_its_tokens_text(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("recurlm.diagnostics.subset.MIN_DOCUMENT_TOKENS", 1)
    tokenizer, cut = TOKENIZERS[kind], KINDS[kind].cut
    text = "the naïve king, the ghost and xyzzy storm.\nto be or not to be\n" * 3
    corpus = Corpus(text, "", "a crown of night")
    documents = [
        [id for piece in safe_pieces(corpus.pieces(number), cut) for id in tokenizer.encode(piece).ids]
        for number in range(3)
    ]
    ids = np.concatenate([[0, *document] for document in documents])
    starts = np.cumsum([0, *(len(document) + 1 for document in documents)])
    whole = sum_counts(count_text(head(ids, starts, len(ids)), corpus, tokenizer, cut))
    assert whole["tokens"] == sum(map(len, documents))
    assert whole["bytes"] == sum(len(document.encode()) for document in corpus.documents)
    assert whole["words"] == sum(len(document.split()) for document in corpus.documents)

    subset = head(ids, starts, 30)
    (first, last) = (document.totals() for document in count_text(subset, corpus, tokenizer, cut))
    assert first["tokens"] + last["tokens"] == subset.tokens <= 30
    prefix = text[: first["characters"]]
    assert tokenizer.encode(prefix).ids[: first["tokens"]] == documents[0][: first["tokens"]]
    assert first["bytes"] == len(prefix.encode())
    assert first["words"] == len(prefix.split())


@pytest.mark.parametrize("kind", ["word", "bpe", "char"])
def test_a_split_that_is_taken_whole_has_the_counts_of_its_manifest(kind: str, tmp_path: Path) -> None:
    texts = Texts(["the king \r\n\r\n ", "a king the   ", " ", "the the \r"] * 20)
    section, splits = Tokenize(kind=kind, vocab_size=300, lowercase=False), {"train": Texts(texts[:2]), "test": texts}
    write_tokens(tmp_path / "tokens", section, splits, {"name": "", "licence": None, "revision": None})
    test = open_tokens(tmp_path / "tokens", "test")
    subset = head(test.ids, test.starts, test.counts["tokens"])
    assert not subset.go_on
    tokenizer = load_tokenizer(tmp_path / "tokens/tokenizer.json")
    counted = sum_counts(count_text(subset, texts, tokenizer, KINDS[kind].cut))
    assert counted == {key: test.counts[key] for key in counted}
    part = head(test.ids, test.starts, test.counts["tokens"] - 1)
    assert sum_counts(count_text(part, texts, tokenizer, KINDS[kind].cut))["tokens"] == part.tokens


def test_another_text_than_the_tokens_is_refused() -> None:
    subset = Subset(np.array([0, 5, 6, 7, 8, 9, 10]), np.array([0, 7]), (0,))
    with pytest.raises(InputError, match="not that of data/corpus"):
        count_text(subset, Corpus("to"), TOKENIZERS["word"], KINDS["word"].cut)
    with pytest.raises(InputError, match="not that of data/corpus"):
        count_text(subset, Corpus("to be " * 9), TOKENIZERS["word"], KINDS["word"].cut)
