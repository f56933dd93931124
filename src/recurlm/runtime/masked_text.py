"""A text with `___` in place of words, as token ids with `<mask>` for mask filling.

    To be or ___ to be

Byte-level BPE puts the space before a word into its token (`·or`, `·not`). There, the masked word takes the space
before `___` along:

    typed         To be or ␣ ___ ␣to be
    tokens        To ·be ·or <mask> ·to ·be
    allowed       a token that is a space and the beginning of a word; at further masks of the same word, more of a word
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unicodedata import category

import numpy as np

from recurlm.errors import InputError
from recurlm.runtime.tokenizer import Vocabulary

MARKER = re.compile("_{3,}")


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
            raise InputError("the text has no blank: write ___ (three underscores) where a word is missing")
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
