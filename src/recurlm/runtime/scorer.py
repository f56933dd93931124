"""How likely a model finds a text: every token scored once, in memory that does not grow with the text."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from recurlm.errors import InputError
from recurlm.runtime.bundle import Bundle
from recurlm.runtime.pieces import read_text, whole_words
from recurlm.runtime.vocabulary import Vocabulary

INPUTS = {"tokens", "length"}
CHUNK = 1024  # tokens that a causal model scores in a call
WINDOW = 512  # tokens that a cloze model scores in a call,
CONTEXT = 256  # and those that it reads on either side of them

Progress = Callable[[int], None]  # bytes of text read so far
Hear = Callable[[Sequence[int], Any], None]  # tokens in their order, and the log-probability of each


@dataclass(frozen=True)
class Score:
    """A text's −log p, and what it is divided by. `protocol` is "streamed", or "cloze" for pseudo-likelihoods."""

    protocol: str
    nats: float
    tokens: int  # of the text: `<bos>` is read and not scored
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
        """None for text without a word; it means little where many words are out of the vocabulary."""
        return _exp(self.nats / self.words) if self.words else None

    @property
    def bits_per_byte(self) -> float:
        """Comparable across tokenizers."""
        return self.nats / math.log(2) / self.bytes

    @property
    def bits_per_character(self) -> float:
        return self.nats / math.log(2) / self.characters

    def metrics(self) -> dict[str, str | float | int | None]:
        """All numbers under the names that the pipeline's metrics have; a cloze model's say that they are pseudo."""
        prefix = "pseudo_" if self.protocol == "cloze" else ""
        rates = ("nats_per_token", "perplexity_per_token", "perplexity_per_word", "bits_per_byte", "bits_per_character")
        counts = ("tokens", "words", "characters", "bytes", "unknown_tokens", "out_of_vocabulary_words")
        return {
            "protocol": self.protocol,
            f"{prefix}nats": self.nats,
            **{prefix + name: getattr(self, name) for name in rates},
            **{name: getattr(self, name) for name in counts},
        }


class Scorer:
    """Scores text with scorer.onnx.

    A causal model predicts each token from those before it, in one stream from the text's beginning. A cloze model
    predicts each token from those on both sides: `WINDOW` tokens at a time, with `CONTEXT` more read on either side.
    """

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        self.bundle = bundle
        self._session = bundle.session("scorer.onnx", INPUTS, threads)

    @classmethod
    def from_bundle(cls, path: str | Path, threads: int | None = None) -> Scorer:
        """Open the bundle at `path`; see `Bundle.open` for what is refused."""
        return cls(Bundle.open(path), threads)

    def score(self, text: str, hear: Hear | None = None) -> Score:
        """Score a text. Characters or words that the vocabulary lacks count as the unknown token, and are counted.

        Args:
            hear: is told each token's log-probability, in nats.

        Raises:
            InputError: the text is empty.
        """
        return self._score([text], "the text", None, hear)

    def score_file(self, path: str | Path, progress: Progress | None = None) -> Score:
        """Score a file of UTF-8 text of any length.

        Raises:
            InputError: the file is missing, empty, or not UTF-8.
        """
        return self._score(read_text(Path(path)), str(path), progress)

    def _score(self, texts: Iterable[str], what: str, progress: Progress | None, hear: Hear | None = None) -> Score:
        counts = _Counts(self.bundle.vocabulary, what, progress)
        pieces = counts.encode(whole_words(texts))
        nats = 0.0
        for tokens, log_prob in self._streamed(pieces) if self.bundle.causal else self._cloze(pieces):
            nats -= float(log_prob.sum(dtype=np.float64))
            if hear is not None:
                hear(tokens, log_prob)
        if counts.tokens == 0:
            raise InputError(f"{what} is empty: there is nothing to score")
        return Score(
            protocol="streamed" if self.bundle.causal else "cloze",
            nats=nats,
            tokens=counts.tokens,
            words=counts.words,
            characters=counts.characters,
            bytes=counts.bytes,
            unknown_tokens=counts.unknown_tokens,
            out_of_vocabulary_words=counts.out_of_vocabulary_words,
        )

    def _streamed(self, pieces: Iterable[list[int]]) -> Iterator[tuple[list[int], Any]]:
        outputs = ["log_prob", *(f"next_state.{name}" for name in self.bundle.state)]
        last = self.bundle.vocabulary.bos
        state: dict[str, Any] = {}
        for ids in pieces:
            for at in range(0, len(ids), CHUNK):
                # The state has read everything but the last token.
                new = ids[at : at + CHUNK]
                log_prob, *after = self._session.run(outputs, _text(np.array([[last, *new]], np.int64)) | state)
                yield new, log_prob[0]
                last = new[-1]
                state = {f"state.{name}": value for name, value in zip(self.bundle.state, after, strict=True)}

    def _cloze(self, pieces: Iterable[list[int]]) -> Iterator[tuple[list[int], Any]]:
        for tokens, scored in windows(self.bundle.vocabulary.bos, pieces):
            (log_prob,) = self._session.run(["log_prob"], _text(np.array([tokens], np.int64)))
            yield tokens[scored], log_prob[0, scored]


def windows(start: int, pieces: Iterable[list[int]]) -> Iterator[tuple[list[int], slice]]:
    """The tokens of a text, `start` first, in windows that overlap, and which part of each window is to be scored."""
    held, first = [start], 1
    for ids in pieces:
        held += ids
        while len(held) - first >= WINDOW + CONTEXT:
            yield held[: first + WINDOW + CONTEXT], slice(first, first + WINDOW)
            passed = max(0, first + WINDOW - CONTEXT)
            del held[:passed]
            first += WINDOW - passed
    while first < len(held):
        end = min(first + WINDOW, len(held))
        yield (
            held[max(0, first - CONTEXT) : end + CONTEXT],
            slice(min(first, CONTEXT), min(first, CONTEXT) + end - first),
        )
        first = end


@dataclass
class _Counts:
    """Counts a text while its pieces, which are cut at ends of words, turn into ids."""

    vocabulary: Vocabulary
    what: str
    progress: Progress | None
    tokens: int = field(default=0, init=False)
    words: int = field(default=0, init=False)
    characters: int = field(default=0, init=False)
    bytes: int = field(default=0, init=False)
    unknown_tokens: int = field(default=0, init=False)
    out_of_vocabulary_words: int = field(default=0, init=False)

    def encode(self, pieces: Iterable[str]) -> Iterator[list[int]]:
        for piece in pieces:
            ids = self.vocabulary.ids(piece, self.what)
            words = piece.split()
            unknown = ids.count(self.vocabulary.unk) if self.vocabulary.unk is not None else 0
            if unknown:
                encoded = self.vocabulary.tokenizer.encode_batch(words, add_special_tokens=False)
                self.out_of_vocabulary_words += sum(self.vocabulary.unk in word.ids for word in encoded)
            self.tokens += len(ids)
            self.words += len(words)
            self.characters += len(piece)
            self.bytes += len(piece.encode())
            self.unknown_tokens += unknown
            yield ids
            if self.progress is not None:
                self.progress(self.bytes)


def _text(tokens: Any) -> dict[str, Any]:
    return {"tokens": tokens, "length": np.full(len(tokens), tokens.shape[1], np.int64)}


def _exp(nats: float) -> float | None:
    """None beyond the largest float."""
    try:
        return math.exp(nats)
    except OverflowError:
        return None
