"""A text with blanks: what was typed around them stays as it is, and each becomes a word.

    To be or ___ to be

Where a tokenizer gives a word the space before it (byte-level bpe: `·or`, `·not`), the blank takes that space along:

    typed         To be or ␣ ___ ␣to be
    tokens        To ·be ·or [ ] ·to ·be
    may stand     a token that is a space and a word's beginning; after it, in the same blank, more of a word
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple
from unicodedata import category

import numpy as np

from recurlm.errors import InputError
from recurlm.runtime.vocabulary import Vocabulary

BLANK = re.compile("_{3,}")


class Kinds(NamedTuple):
    """For every token of a vocabulary, where in a word it may stand, as arrays of bool."""

    after_space: Any  # it is a space and the beginning of a word
    first: Any
    further: Any

    @classmethod
    def of(cls, vocabulary: Vocabulary) -> Kinds:
        """Read the vocabulary; a token of half a character, shown as U+FFFD, is no part of a word."""
        special = set(vocabulary.special.values())
        size = vocabulary.tokenizer.get_vocab_size()
        texts = ["" if id in special else vocabulary.text([id]) for id in range(size)]
        return cls(
            after_space=np.array([text[:1] == " " and _begins_word(text[1:]) for text in texts]),
            first=np.array([_begins_word(text) for text in texts]),
            further=np.array([_is_of_word(text) for text in texts]),
        )


def _begins_word(text: str) -> bool:
    return _is_of_word(text) and any(character.isalnum() for character in text)


def _is_of_word(text: str) -> bool:
    """Whether it holds nothing but letters, their marks, digits, apostrophes and hyphens."""
    return bool(text) and all(character in "'’-" or category(character)[0] in "LMN" for character in text)


@dataclass
class Row:
    """A text being filled."""

    ids: list[int]
    blanks: list[range]  # the positions of each blank's tokens
    open: dict[int, Any] = field(default_factory=dict)  # position still to be filled → which tokens may stand there
    log_prob: float = 0.0  # of the tokens filled in, together

    def candidates(self, tokens: Sequence[int], log_probs: Sequence[float]) -> list[tuple[float, int, int]]:
        """(log-probability, position, token) where a token that was drawn may stand."""
        return [(log_probs[at], at, tokens[at]) for at, allowed in self.open.items() if allowed[tokens[at]]]

    def put(self, log_prob: float, position: int, token: int) -> None:
        self.ids[position] = token
        self.log_prob += log_prob
        del self.open[position]


class Blanks:
    """A typed text, taken apart at its blanks."""

    def __init__(self, text: str, vocabulary: Vocabulary, kinds: Kinds) -> None:
        """Find the blanks.

        Raises:
            InputError: there are none, or the vocabulary lacks something of the text around them.
        """
        self.vocabulary = vocabulary
        self.kinds = kinds
        self.typed = BLANK.split(text)
        if len(self.typed) == 1:
            raise InputError("the text has no blank: write ___ (three underscores) where a word is missing")
        gives_space = bool(kinds.after_space.any())
        self.takes_space = [gives_space and part.endswith(" ") for part in self.typed[:-1]]
        own = [part[:-1] if takes else part for part, takes in zip(self.typed, [*self.takes_space, False], strict=True)]
        self.ids = [vocabulary.known_ids(part, "the text") for part in own]

    def __len__(self) -> int:
        return len(self.typed) - 1

    def row(self, sizes: Sequence[int], fill: Sequence[int]) -> Row:
        """The text's tokens with `sizes[b]` hidden ones for blank b; those of the blanks in `fill` are to be filled."""
        row = Row([self.vocabulary.bos, *self.ids[0]], [])
        for blank, size in enumerate(sizes):
            positions = range(len(row.ids), len(row.ids) + size)
            row.blanks.append(positions)
            row.ids += [self.vocabulary.mask] * size + self.ids[blank + 1]
            if blank in fill:
                row.open |= dict.fromkeys(positions, self.kinds.further)
                row.open[positions[0]] = self.kinds.after_space if self.takes_space[blank] else self.kinds.first
        return row

    def text(self, row: Row) -> str:
        """The typed text with the words of a filled row in its blanks."""
        parts = [self.typed[0]]
        for positions, takes_space, after in zip(row.blanks, self.takes_space, self.typed[1:], strict=True):
            word = self.vocabulary.text(row.ids[at] for at in positions)
            parts += [word[1:] if takes_space else word, after]
        return "".join(parts)
