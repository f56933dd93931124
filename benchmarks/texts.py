"""The texts that the benchmarks of quality learn from and score: a file by characters, or a corpus by words."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
from common import PARAMS

from recurlm.config import Tokenize, override
from recurlm.corpus.reader import open_split
from recurlm.tokens.special import special_ids
from recurlm.tokens.tokenizer import learn_tokenizer


class Text(NamedTuple):
    """What is learned from and what is scored, as ids, each document begun by `<bos>`."""

    training: np.ndarray
    scored: np.ndarray
    starts: np.ndarray  # of the scored documents, and their end
    vocab_size: int
    special: dict[str, int]


def characters(path: Path, tune: bool) -> Text:
    """The 90/10 split of a text file."""
    text = path.read_text(encoding="utf-8")
    text, rest = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
    if tune:
        text, rest = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
    return encode([text], [rest], override(PARAMS.tokenize, {"kind": "char"}))


def words(folder: Path, vocab_size: int, tune: bool) -> Text:
    """The train and validation splits of a corpus that `fetch` made."""
    training, validation = (
        ["".join(pieces) for pieces in open_split(folder, split).documents()] for split in ("train", "validation")
    )
    if tune:
        held_out = max(1, len(training) // 20)
        training, validation = training[:-held_out], training[-held_out:]
    return encode(training, validation, override(PARAMS.tokenize, {"kind": "word", "vocab_size": vocab_size}))


def encode(training: list[str], scored: list[str], kind: Tokenize) -> Text:
    tokenizer = learn_tokenizer(training, kind)
    special = special_ids(tokenizer)

    def ids(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        parts = [np.array([special["bos"], *encoding.ids]) for encoding in tokenizer.encode_batch_fast(texts)]
        return np.concatenate(parts), np.cumsum([0, *map(len, parts)])

    scored_ids, starts = ids(scored)
    return Text(ids(training)[0], scored_ids, starts, tokenizer.get_vocab_size(), special)
