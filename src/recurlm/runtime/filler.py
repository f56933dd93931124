"""Mask filling with filler.onnx: words for the `___` of a text, each predicted from both sides.

Each `___` stands for one word of one or more tokens. Its tokens are filled one after another, the most confident first,
and after each the others are predicted again (mask-predict: Ghazvininejad et al. 2019). The product of their
probabilities is the word's, and decides how many tokens it gets. A mean would favour long words, whose last tokens
follow from the first.

Byte-level BPE puts the space before a word into its token (`·or`, `·not`). There, the masked word takes the space
before `___` along:

    typed         To be or ␣ ___ ␣to be
    tokens        To ·be ·or <mask> ·to ·be
    allowed       a token that is a space and the beginning of a word; at further masks of the same word, more of a word
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, NamedTuple
from unicodedata import category

import numpy as np

from recurlm.errors import InputError
from recurlm.runtime.bundle import Bundle
from recurlm.runtime.sampling import GREEDY, Rng, Sampling, seeded_rng, uniforms
from recurlm.runtime.scorer import BundleModel
from recurlm.runtime.session import pad_batch
from recurlm.runtime.tokenizer import Vocabulary

MARKER = re.compile("_{3,}")
INPUTS = {"tokens", "length", "temperature", "top_k", "top_p", "uniform"}
MAX_WORD_TOKENS = {"bpe": 3, "char": 12, "word": 1}  # by kind of tokenizer
MOST_WORD_TOKENS = max(MAX_WORD_TOKENS.values())
MAX_TOKENS = 2048  # of a text, which is read in one call
RETRIES = 64  # tokens sampled for each position where no sampled token is allowed
RETRY_TEMPERATURES = (1.0, 10.0, 100.0)  # tried in this order, until a token is allowed
RETRY_TOKENS = 8192  # read in one call: all samples of a long text at once would take gigabytes


Progress = Callable[[float, float], None]  # what is done, and all that there is


class Filler(BundleModel):
    """Mask filling with a cloze model."""

    def __init__(self, bundle: Bundle, threads: int | None = None) -> None:
        """Load filler.onnx.

        Raises:
            InputError: the bundle's model cannot fill masks, or its filler.onnx does not fit.
        """
        if "fill" not in bundle.tasks:
            raise InputError(
                f"{bundle.folder}: '{bundle.variant}' reads from the left only and cannot fill masks: "
                "try recurlm generate, or a bundle such as bilstm"
            )
        super().__init__(bundle, threads)
        self.session = bundle.session("filler.onnx", INPUTS, threads)

    def fill(
        self,
        text: str,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        seed: int | None = None,
        max_mask_tokens: int | None = None,
        *,
        progress: Progress | None = None,
    ) -> str:
        """The text with a word in place of each `___`; the text around them is unchanged.

        Args:
            max_mask_tokens: of a word, at most 12; None means 3 for bpe, 12 for char, 1 for word.
            progress: called with the number of masks that are done, and of all; each is read twice.

        Raises:
            InputError: no `___`, something the vocabulary lacks, too long a text, or a setting out of range.
        """
        sampling, rng = Sampling(temperature, top_k, top_p), seeded_rng(seed)
        vocabulary = self.bundle.vocabulary
        largest = MAX_WORD_TOKENS[vocabulary.kind] if max_mask_tokens is None else max_mask_tokens
        if not 1 <= largest <= MOST_WORD_TOKENS:  # as many texts are filled side by side, to find a word's size
            raise InputError(f"max_mask_tokens is {largest}: 1 to {MOST_WORD_TOKENS}")
        masked = MaskedText(text, vocabulary, self._allowed)
        tokens = len(masked.sequence([largest] * len(masked), []).ids)
        if tokens > MAX_TOKENS:
            raise InputError(
                f"the text has about {tokens} tokens, and at most {MAX_TOKENS} are read at once: shorten it"
            )
        words, sizes = range(len(masked)), []
        for word in words:
            sizes.append(self._best_size(masked, word, largest))
            if progress is not None:
                progress((word + 1) / 2, len(words))
        sequence = masked.sequence(sizes, words)
        half = None if progress is None else partial(_second_half, progress, len(words))
        self._fill([sequence], sampling, rng, half)
        return masked.text(sequence)

    @cached_property
    def _allowed(self) -> AllowedTokens:
        return AllowedTokens.of(self.bundle.vocabulary)

    def _best_size(self, masked: MaskedText, word: int, largest: int) -> int:
        """The likeliest number of tokens of a word, with one mask for each of the others."""
        if largest == 1:
            return 1
        sizes = range(1, largest + 1)
        sequences = [
            masked.sequence([size if other == word else 1 for other in range(len(masked))], [word]) for size in sizes
        ]
        self._fill(sequences, GREEDY, seeded_rng(0))
        return max(sizes, key=lambda size: sequences[size - 1].log_prob)

    def _fill(
        self, sequences: Sequence[MaskedSequence], sampling: Sampling, rng: Rng, progress: Progress | None = None
    ) -> None:
        """Fill all masks, one of each sequence in a call."""
        total = sum(len(sequence.allowed) for sequence in sequences)
        while unfinished := [sequence for sequence in sequences if sequence.allowed]:
            time = max(len(sequence.ids) for sequence in unfinished)
            sampled = self._sample(
                [sequence.ids for sequence in unfinished], sampling, uniforms(rng, (len(unfinished), time))
            )
            for sequence, tokens, log_probs in zip(unfinished, *sampled, strict=True):
                candidates = sequence.candidates(tokens, log_probs) or self._retry(sequence, sampling, rng)
                sequence.fill(max(candidates))
            if progress is not None:
                progress(total - sum(len(sequence.allowed) for sequence in sequences), total)

    def _retry(self, sequence: MaskedSequence, sampling: Sampling, rng: Rng) -> list[Candidate]:
        """Candidates from many samples, where a single one had none.

        At temperature 0 the uniform numbers are evenly spaced: they find every token of probability 1/RETRIES or more.
        """
        greedy = sampling.temperature == 0
        even = np.repeat((np.arange(RETRIES, dtype=np.float32)[:, None] + 0.5) / RETRIES, len(sequence.ids), axis=1)
        hotter = [Sampling(temperature, 0, 1.0) for temperature in RETRY_TEMPERATURES]
        rows = max(1, RETRY_TOKENS // len(sequence.ids))
        for setting in hotter if greedy else [sampling, *hotter]:
            uniform = even if greedy else uniforms(rng, even.shape)
            candidates: list[list[Candidate]] = []
            for begin in range(0, RETRIES, rows):
                part = uniform[begin : begin + rows]
                sampled = zip(*self._sample([sequence.ids] * len(part), setting, part), strict=True)
                candidates += [allowed for row in sampled if (allowed := sequence.candidates(*row))]
                if candidates and not greedy:
                    return candidates[0]
            if candidates:
                return max(candidates, key=max)
        raise InputError("the vocabulary has no token that could stand for a mask of this text")

    def _sample(
        self, sequences: Sequence[Sequence[int]], sampling: Sampling, uniform: Any
    ) -> tuple[list[list[int]], list[list[float]]]:
        """A token sampled for each position of each sequence, and its log-probability."""
        tokens, length = pad_batch(sequences)
        feeds = {"tokens": tokens, "length": length, "uniform": uniform} | sampling.feeds(len(sequences))
        results, _ = self.session.run(["filled", "log_prob"], feeds)
        return results["filled"].tolist(), results["log_prob"].tolist()


def _second_half(progress: Progress, words: int, filled: float, masks: float) -> None:
    """The masks' tokens are filled, after their sizes were found."""
    progress(words * (1 + filled / masks) / 2, words)


class AllowedTokens(NamedTuple):
    """Three masks over the vocabulary, arrays of bool: where in a word a token may stand."""

    first_after_space: Any  # a space and the beginning of a word
    first: Any
    continuation: Any

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> AllowedTokens:
        """Classify every token; one that is an incomplete character, decoded as U+FFFD, is no part of a word."""
        special = set(vocabulary.special.values())
        size = vocabulary.tokenizer.get_vocab_size()
        texts = ["" if id in special else vocabulary.text([id]) for id in range(size)]
        return cls(
            first_after_space=np.array([text[:1] == " " and _begins_word(text[1:]) for text in texts]),
            first=np.array([_begins_word(text) for text in texts]),
            continuation=np.array([_is_word_part(text) for text in texts]),
        )


def _begins_word(text: str) -> bool:
    return _is_word_part(text) and any(character.isalnum() for character in text)


def _is_word_part(text: str) -> bool:
    """Whether all characters are letters, their marks, digits, apostrophes and hyphens."""
    return bool(text) and all(character in "'’-" or category(character)[0] in "LMN" for character in text)


class Candidate(NamedTuple):
    """A token that may fill a masked position. Candidates compare by log-probability, then by position."""

    log_prob: float
    position: int
    token: int


@dataclass
class MaskedSequence:
    """The token ids of a text while its masks are being filled."""

    ids: list[int]
    words: list[range] = field(default_factory=list)  # the positions of each masked word
    allowed: dict[int, Any] = field(default_factory=dict)  # position still masked → mask over the vocabulary
    log_prob: float = 0.0  # sum over the filled tokens

    def candidates(self, tokens: Sequence[int], log_probs: Sequence[float]) -> list[Candidate]:
        """The allowed ones of the tokens that were sampled, one a position."""
        return [
            Candidate(log_probs[position], position, tokens[position])
            for position, allowed in self.allowed.items()
            if allowed[tokens[position]]
        ]

    def fill(self, candidate: Candidate) -> None:
        self.ids[candidate.position] = candidate.token
        self.log_prob += candidate.log_prob
        del self.allowed[candidate.position]


class MaskedText:
    """A typed text, split at its `___`."""

    def __init__(self, text: str, vocabulary: Vocabulary, allowed: AllowedTokens) -> None:
        """Split and encode the text.

        Raises:
            InputError: there is no `___`, or the vocabulary lacks something of the text around them.
        """
        self.vocabulary = vocabulary
        self.allowed = allowed
        self.parts = MARKER.split(text)
        if len(self.parts) == 1:
            raise InputError("the text has no mask: write ___ (three underscores) where a word is missing")
        has_space_tokens = bool(allowed.first_after_space.any())
        self.takes_space = [has_space_tokens and part.endswith(" ") for part in self.parts[:-1]]
        encoded = [
            part[:-1] if takes_space else part
            for part, takes_space in zip(self.parts, [*self.takes_space, False], strict=True)
        ]
        self.ids = [vocabulary.known_ids(part, "the text") for part in encoded]

    def __len__(self) -> int:
        """The number of masked words."""
        return len(self.parts) - 1

    def sequence(self, sizes: Sequence[int], to_fill: Sequence[int]) -> MaskedSequence:
        """The token ids with `sizes[w]` masks for word w; only the words `to_fill` will be filled."""
        sequence = MaskedSequence([self.vocabulary.bos, *self.ids[0]])
        for word, size in enumerate(sizes):
            positions = range(len(sequence.ids), len(sequence.ids) + size)
            sequence.words.append(positions)
            sequence.ids += [self.vocabulary.mask] * size + self.ids[word + 1]
            if word in to_fill:
                first = self.allowed.first_after_space if self.takes_space[word] else self.allowed.first
                sequence.allowed |= {**dict.fromkeys(positions, self.allowed.continuation), positions[0]: first}
        return sequence

    def text(self, sequence: MaskedSequence) -> str:
        """The typed text with the words of a filled sequence in place of `___`."""
        texts = [self.parts[0]]
        for positions, takes_space, after in zip(sequence.words, self.takes_space, self.parts[1:], strict=True):
            word = self.vocabulary.text(sequence.ids[position] for position in positions)
            texts += [word[1:] if takes_space else word, after]
        return "".join(texts)
