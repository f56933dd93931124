"""The three kinds of tokenizer, and how one is learned and read."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from recurlm.config import Tokenize
from recurlm.errors import InputError
from recurlm.storage import check_sha256, read_json
from recurlm.tokens.pieces import PIECE
from recurlm.tokens.special import BOS, EOL, MASK, UNK

LONG_WORD = 256  # characters that a longer stretch is cut into, to learn from

CHAR_CUT = ""  # anywhere: no token is longer than a character

# Merges stay inside the matches of GPT-2's pattern,
#     's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
# so a text may be cut wherever one match ends, if neither half then matches otherwise. That holds
#   - before a space or line end that follows a sign, because white space can only stand first in a match, or fill it;
#   - before a CJK mark of punctuation that follows a CJK letter, because no alternative goes from a letter to a mark.
# Left half: a run of signs stops there for the one reason or the other, and `(?!\S)`, the only look-ahead, looks just
# past white space, which ends before the cut. Right half: the pattern has no look-behind. The second rule is
# for languages without spaces. Python's \s knows four characters more than the pattern's (U+001C to U+001F): "follows
# a sign" is thus the narrower claim, and the white space behind the cut is one that both know.
BPE_CUT = r"(?:(?<=\S)(?=[ \n])|(?<=[\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5])(?=[、。，！？]))"

WORD_CUT = r"(?<=\S)(?=[ \n])"  # at the end of a word


def learn_char(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """The characters of `texts` in the order of their code points, all of them, whatever `vocab_size` says.

    Any other character becomes `<unk>`.
    """
    characters: set[str] = set()
    for text in texts:
        characters.update(text)
    vocabulary = {token: id for id, token in enumerate([BOS, MASK, UNK, *sorted(characters)])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), "isolated")
    tokenizer.decoder = decoders.Fuse()
    return tokenizer


def learn_bpe(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """Byte-level byte-pair encoding (Sennrich et al. 2016; bytes and split as in GPT-2, Radford et al. 2019).

    Bytes and the most frequent merges; fewer than `vocab_size` where no pair of tokens is seen twice. The alphabet is
    the 256 byte values, so it reads and gives back every text exactly, and nothing is unknown.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=2,
        special_tokens=[BOS, MASK],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    parts = json.loads(tokenizer.to_str())
    parts["added_tokens"] = []  # see special.py
    return Tokenizer.from_str(json.dumps(parts))


def learn_word(texts: Iterable[str], vocab_size: int, lowercase: bool) -> Tokenizer:
    """The most frequent words of `texts`, ties in the order of their code points.

    Words as Penn Treebank files have them: split at white space, the rare ones `<unk>`, each line ended by `<eol>`.

    Raises:
        InputError: there is no word in the texts.
    """
    specials = [BOS, MASK, UNK, EOL]
    steps: list[normalizers.Normalizer] = [normalizers.Lowercase()] if lowercase else []
    # A text that spells out `<bos>` or `<mask>` has a word that the vocabulary lacks, and no special token.
    steps += [normalizers.Replace(token, UNK) for token in (BOS, MASK)]
    normalizer = normalizers.Sequence([*steps, normalizers.Replace("\n", f" {EOL} ")])
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(normalizer.normalize_str(text).split())
    ranked = sorted(counts.keys() - set(specials), key=lambda word: (-counts[word], word))
    if not ranked:
        raise InputError("the train split holds no word: look at the text in data/corpus/train.txt")

    vocabulary = {token: id for id, token in enumerate([*specials, *ranked[: vocab_size - len(specials)]])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNK))
    tokenizer.normalizer = normalizer
    # The four control characters separate words for Python's str.split, which counts the words, but not for \s here.
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\x1c-\x1f]+"), "removed")
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex("^"), " "),
            decoders.Replace(Regex(f"^ {EOL}$"), "\n"),
            decoders.Fuse(),
            decoders.Replace("\n ", "\n"),
            decoders.Strip(" ", left=1, right=0),
        ]
    )
    return tokenizer


@dataclass(frozen=True)
class Kind:
    learn: Callable[[Iterable[str], int, bool], Tokenizer]  # texts, vocabulary size, lower case
    cut: str  # a pattern of places (nothing but look-around) where a text may be cut without changing its tokens


KINDS = {
    "char": Kind(learn_char, CHAR_CUT),
    "bpe": Kind(learn_bpe, BPE_CUT),
    "word": Kind(learn_word, WORD_CUT),
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
