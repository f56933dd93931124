"""What a split holds: words, characters, bytes, and what its vocabulary lacks, counted piece by piece."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from tokenizers import Tokenizer

from recurlm.tokens.special import special_ids


class Counts:
    """Counts a split while it is read; a word that is cut in two by the end of a piece counts once."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.unknown = special_ids(tokenizer)["unk"]
        self.documents = self.tokens = self.words = self.characters = self.bytes = 0
        self.unknown_tokens = self.out_of_vocabulary_words = 0
        self._word_goes_on = self._counted_as_unknown = False

        @lru_cache(maxsize=1 << 16)
        def is_unknown(word: str) -> bool:
            return self.unknown in tokenizer.encode(word, add_special_tokens=False).ids

        self._is_unknown = is_unknown

    @property
    def ids(self) -> int:
        """Tokens of the text, and one `<bos>` a document."""
        return self.documents + self.tokens

    def start_document(self) -> None:
        self.documents += 1
        self._word_goes_on = self._counted_as_unknown = False

    def add(self, text: str, ids: np.ndarray) -> None:
        """Count the next piece of the document."""
        self.tokens += len(ids)
        self.characters += len(text)
        self.bytes += len(text.encode())
        unknown = 0 if self.unknown is None else int((ids == self.unknown).sum())
        self.unknown_tokens += unknown
        self._add_words(text, some_unknown=unknown > 0)

    def _add_words(self, text: str, some_unknown: bool) -> None:
        words = text.split()
        if not words:
            self._word_goes_on = self._word_goes_on and not text
            return
        unknown = [some_unknown and self._is_unknown(word) for word in words]
        if self._word_goes_on and not text[0].isspace():
            self.words -= 1
            self.out_of_vocabulary_words -= self._counted_as_unknown
            unknown[0] = unknown[0] or self._counted_as_unknown
        self.words += len(words)
        self.out_of_vocabulary_words += sum(unknown)
        self._word_goes_on = not text[-1].isspace()
        self._counted_as_unknown = unknown[-1]

    def totals(self) -> dict[str, int]:
        """The counts under the names that the manifest gives them."""
        return {
            "documents": self.documents,
            "tokens": self.tokens,
            "words": self.words,
            "characters": self.characters,
            "bytes": self.bytes,
            "unknown_tokens": self.unknown_tokens,
            "out_of_vocabulary_words": self.out_of_vocabulary_words,
        }
