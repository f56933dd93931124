"""Log-likelihood of a text with scorer.onnx: every token is scored once, in memory that does not grow with the text."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np

from recurlm.errors import InputError
from recurlm.runtime.bundle import Bundle
from recurlm.runtime.session import GraphError, State, pad_batch
from recurlm.runtime.tokenizer import Vocabulary, read_blocks, split_at_words

INPUTS = {"tokens", "length"}
CHUNK = 1024  # tokens of a call where the text is one stream
CONTEXT = 256  # tokens of context on either side of a window, or before it
WINDOW, ROWS = 512, 4  # tokens of a window where each is predicted from both sides, and windows of a call
FILE_WINDOW, FILE_ROWS = 2048, 16  # where each is predicted from the left and the text is a file

RATES = ("nats_per_token", "perplexity_per_token", "perplexity_per_word", "bits_per_byte", "bits_per_character")
COUNTS = ("tokens", "words", "characters", "bytes", "unknown_tokens", "out_of_vocabulary_words")

Protocol = Literal["streamed", "windowed", "cloze"]
Progress = Callable[[int], None]  # bytes of text scored so far
OnTokens = Callable[[Sequence[int], Any], None]  # tokens in their order, and the log-probability of each


@dataclass(frozen=True)
class Score:
    """A text's negative log-likelihood, and the counts that its rates divide by."""

    protocol: Protocol  # "cloze": a negative pseudo-log-likelihood
    nats: float
    tokens: int  # without `<bos>`, which is read and not scored
    words: int  # separated by white space
    characters: int
    bytes: int
    unknown_tokens: int
    out_of_vocabulary_words: int

    @property
    def nats_per_token(self) -> float:
        return self.nats / self.tokens

    @property
    def perplexity_per_token(self) -> float | None:
        return _exp(self.nats_per_token)

    @property
    def perplexity_per_word(self) -> float | None:
        """None for text without a word. It means little where many words are out of the vocabulary."""
        return _exp(self.nats / self.words) if self.words else None

    @property
    def bits_per_byte(self) -> float:
        """Comparable across tokenizers."""
        return self.nats / math.log(2) / self.bytes

    @property
    def bits_per_character(self) -> float:
        return self.nats / math.log(2) / self.characters

    def metrics(self) -> dict[str, str | float | int | None]:
        """All numbers by the names of the pipeline's metrics, with the prefix `pseudo_` for pseudo-likelihoods."""
        prefix = "pseudo_" if self.protocol == "cloze" else ""
        return {
            "protocol": self.protocol,
            f"{prefix}nats": self.nats,
            **{prefix + name: getattr(self, name) for name in RATES},
            **{name: getattr(self, name) for name in COUNTS},
        }


class OfBundle:
    """What runs a bundle's graphs."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self.threads = threads

    @classmethod
    def from_bundle(cls, path: str | Path, threads: int | None = None) -> Self:
        """Open the bundle at `path`; see `Bundle.open` for what is refused."""
        return cls(Bundle.open(path), threads)


class Scorer(OfBundle):
    """Scores text with scorer.onnx.

    A causal model predicts each token from all tokens before it, in one stream from `<bos>`. A long file is cut into
    windows of `FILE_WINDOW` tokens, which are read side by side, each after `CONTEXT` tokens before it. A cloze model
    predicts each token from both sides: `WINDOW` tokens at a time, with `CONTEXT` tokens of context on either side.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        super().__init__(bundle, threads)
        self.session = bundle.session("scorer.onnx", INPUTS, threads)

    def score(self, text: str, on_tokens: OnTokens | None = None) -> Score:
        """Score a text. Characters or words that the vocabulary lacks are scored as `<unk>`, and counted.

        Args:
            on_tokens: called with the tokens of each call and their log-probabilities, in nats.

        Raises:
            InputError: the text is empty.
        """
        return self._score([text], "the text", None, on_tokens)

    def score_file(self, path: str | Path, progress: Progress | None = None) -> Score:
        """Score a file of UTF-8 text of any length; its protocol is "windowed" where it is longer than a window.

        Raises:
            InputError: the file is missing, empty, or not UTF-8.
        """
        return self._score(read_blocks(Path(path)), str(path), progress, file=True)

    def _score(
        self,
        texts: Iterable[str],
        what: str,
        progress: Progress | None,
        on_tokens: OnTokens | None = None,
        file: bool = False,
    ) -> Score:
        counts = _Counts()
        cloze = self.bundle.objective == "cloze"
        score = self._both_sides if cloze else self._side_by_side if file else self._streamed
        nats, scored, shown = 0.0, 0, 0
        for call in score(counts.encode(split_at_words(texts), self.bundle.vocabulary, what)):
            for tokens, log_prob in call:
                if len(tokens) != len(log_prob):
                    path = self.session.path
                    raise GraphError(f"{path}: {len(log_prob)} log-probabilities for {len(tokens)} tokens")
                nats -= float(log_prob.sum(dtype=np.float64))
                scored += len(tokens)
                if on_tokens is not None:
                    on_tokens(tokens, log_prob)
            if progress is not None:
                # More is read than is scored.
                shown = max(shown, counts["bytes"] * scored // counts["tokens"])
                progress(shown)
        if counts["tokens"] == 0:
            raise InputError(f"{what} is empty: there is nothing to score")
        protocol: Protocol = "cloze" if cloze else "windowed" if file and counts["tokens"] > FILE_WINDOW else "streamed"
        return Score(protocol, nats, **{name: counts[name] for name in COUNTS})

    def _streamed(self, pieces: Iterable[list[int]]) -> Iterator[Scored]:
        last = self.bundle.vocabulary.bos
        state: State | None = None
        for ids in pieces:
            for begin in range(0, len(ids), CHUNK):
                # The state has not read the last token yet.
                chunk = ids[begin : begin + CHUNK]
                results, state = self.session.run(["log_prob"], _feeds([[last, *chunk]]), state)
                yield [(chunk, results["log_prob"][0])]
                last = chunk[-1]

    def _side_by_side(self, pieces: Iterable[list[int]]) -> Iterator[Scored]:
        """As `_streamed`, but each window begins with a zero state, and its context fills it."""
        for rows in _batches(windows(self.bundle.vocabulary.bos, pieces, FILE_WINDOW, CONTEXT, 0), FILE_ROWS):
            results, _ = self.session.run(["log_prob"], _feeds([tokens for tokens, _ in rows]))
            # A causal model's first log-probability is that of the second token.
            yield [
                (tokens[scored], log_prob[scored.start - 1 : scored.stop - 1])
                for (tokens, scored), log_prob in zip(rows, results["log_prob"], strict=True)
            ]

    def _both_sides(self, pieces: Iterable[list[int]]) -> Iterator[Scored]:
        for rows in _batches(windows(self.bundle.vocabulary.bos, pieces, WINDOW, CONTEXT, CONTEXT), ROWS):
            results, _ = self.session.run(["log_prob"], _feeds([tokens for tokens, _ in rows]))
            yield [
                (tokens[scored], log_prob[scored])
                for (tokens, scored), log_prob in zip(rows, results["log_prob"], strict=True)
            ]


class BundleModel(OfBundle):
    """A `Generator` or `Filler`, which scores text too."""

    @cached_property
    def scorer(self) -> Scorer:
        """The same bundle's scorer, loaded on first use."""
        return Scorer(self.bundle, self.threads)

    def score(self, text: str) -> Score:
        """The text's (pseudo-)log-likelihood; see `Scorer.score`."""
        return self.scorer.score(text)


Scored = list[tuple[list[int], Any]]  # by one call: tokens, and the log-probability of each
Window = tuple[list[int], slice]  # tokens with their context, and which of them are scored


def windows(bos: int, pieces: Iterable[list[int]], size: int, before: int, after: int) -> Iterator[Window]:
    """Cut a text's tokens, `<bos>` first, into windows of `size` tokens to score, with context before and after."""
    held, first = [bos], 1
    for ids in pieces:
        held += ids
        while len(held) - first >= size + after:
            yield held[: first + size + after], slice(first, first + size)
            passed = max(0, first + size - before)
            del held[:passed]
            first += size - passed
    while first < len(held):
        end = min(first + size, len(held))
        yield held[max(0, first - before) : end + after], slice(min(first, before), min(first, before) + end - first)
        first = end


def _batches(windows: Iterable[Window], rows: int) -> Iterator[list[Window]]:
    remaining = iter(windows)
    while batch := list(islice(remaining, rows)):
        yield batch


class _Counts(Counter[str]):
    """Counts tokens, words, characters and bytes of a text while it encodes it piece by piece."""

    def encode(self, pieces: Iterable[str], vocabulary: Vocabulary, what: str) -> Iterator[list[int]]:
        for piece in pieces:
            ids = vocabulary.ids(piece, what)
            words = piece.split()
            unknown = ids.count(vocabulary.unk) if vocabulary.unk is not None else 0
            if unknown:
                encoded = vocabulary.tokenizer.encode_batch(words, add_special_tokens=False)
                self["out_of_vocabulary_words"] += sum(vocabulary.unk in word.ids for word in encoded)
            self["tokens"] += len(ids)
            self["words"] += len(words)
            self["characters"] += len(piece)
            self["bytes"] += len(piece.encode())
            self["unknown_tokens"] += unknown
            yield ids


def _feeds(rows: Sequence[Sequence[int]]) -> dict[str, Any]:
    tokens, length = pad_batch(rows)
    return {"tokens": tokens, "length": length}


def _exp(nats: float) -> float | None:
    """e^nats; None where that is more than the largest float."""
    try:
        return math.exp(nats)
    except OverflowError:
        return None
