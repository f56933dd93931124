"""The three kinds of tokenizer by name, and how one is learned and read."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from recurlm.config import Tokenize
from recurlm.errors import InputError
from recurlm.storage import check_sha256, read_json
from recurlm.tokens import bpe, char, word
from recurlm.tokens.pieces import PIECE

LONG_WORD = 256  # characters that a longer stretch is cut into, to learn from


@dataclass(frozen=True)
class Kind:
    learn: Callable[[Iterable[str], int, bool], Tokenizer]  # texts, vocabulary size, lower case
    cut: str  # a pattern of places (nothing but look-around) where a text may be cut without changing its tokens


KINDS = {
    "char": Kind(char.learn, char.CUT),
    "bpe": Kind(bpe.learn, bpe.CUT),
    "word": Kind(word.learn, word.CUT),
}


def learn_tokenizer(texts: Iterable[str], section: Tokenize) -> Tokenizer:
    """Learn from texts that are cut where the kind allows it.

    Raises:
        InputError: lower case is asked of a kind that keeps every character, or there are no words to learn from.
    """
    if section.lowercase and section.kind != "word":
        raise InputError(
            f"params.yaml: tokenize.lowercase is for kind 'word' only, and tokenize.kind is '{section.kind}'"
        )
    return KINDS[section.kind].learn(_without_long_words(texts), section.vocab_size, section.lowercase)


def _without_long_words(texts: Iterable[str]) -> Iterator[str]:
    """What is longer than a piece has no place to cut: in one word of that length, pairs would be counted for hours."""
    for text in texts:
        size = len(text) if len(text) <= PIECE else LONG_WORD
        yield from (text[begin : begin + size] for begin in range(0, len(text), size or 1))


def load_tokenizer(path: Path, sha256: str | None = None) -> Tokenizer:
    """Read a tokenizer.json, and compare it with the hash that a manifest gives for it.

    Raises:
        InputError: the file is missing, corrupted, or no tokenizer.
    """
    if sha256 is not None:
        check_sha256(path, sha256)
    parts = read_json(path)
    if not isinstance(parts, dict) or "model" not in parts:
        raise InputError(f"{path}: not a file of Hugging Face tokenizers")
    return Tokenizer.from_file(str(path))


def tokenizer_of_model(folder: Path, section: Tokenize) -> tuple[Tokenizer, dict[str, Any]]:
    """The tokenizer of an earlier model, and what a manifest says about the model.

    Raises:
        InputError: there is no such model, it has no tokenizer beside it, or params.yaml asks for another kind.
    """
    description = read_json(folder / "model.json")
    kept = description.get("tokenizer") if isinstance(description, dict) else None
    if not isinstance(kept, dict):
        raise InputError(f"{folder}: no model with a tokenizer beside it: train it again with this recurlm")
    wanted = {"kind": section.kind, "lowercase": section.lowercase}
    for key, value in wanted.items():
        if kept.get(key) != value:
            raise InputError(
                f"params.yaml: tokenize.{key} is {value!r}, and the model of train.init_from, {folder}, was trained "
                f"with {kept.get(key)!r}: a model keeps its tokenizer"
            )
    tokenizer = load_tokenizer(folder / "tokenizer.json", kept["sha256"])
    return tokenizer, {"variant": description["variant"], "model_sha256": description["sha256"]}
