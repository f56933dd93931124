"""Measures of generated text: distinct-n, seq-rep-n, and the longest n-gram copied from the training text.

A word is a sequence of letters and digits, with inner apostrophes and hyphens, in lower case: punctuation and case hide
neither a copy nor a repetition.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Iterator, Sequence

WORD = re.compile(r"\w+(?:['’-]\w+)*")
END = ""  # of a document: no word


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return WORD.findall(text.lower())


def distinct(texts: Iterable[Sequence[str]], n: int) -> float | None:
    """Distinct-n: unique n-grams over all n-grams of all texts together (Li et al. 2016, arXiv:1510.03055)."""
    grams = [gram for text in texts for gram in _grams(text, n)]
    return len(set(grams)) / len(grams) if grams else None


def repetition(texts: Iterable[Sequence[str]], n: int) -> float | None:
    """seq-rep-n: the fraction of n-grams that repeat one of the same text (Welleck et al. 2020, arXiv:1908.04319)."""
    total = different = 0
    for text in texts:
        grams = list(_grams(text, n))
        total, different = total + len(grams), different + len(set(grams))
    return (total - different) / total if total else None


def _grams(text: Sequence[str], n: int) -> Iterator[tuple[str, ...]]:
    return (tuple(text[start : start + n]) for start in range(len(text) - n + 1))


class CopyFinder:
    """Finds the longest n-gram that a text shares with a source.

    A shared n-gram contains a shared (n − 1)-gram, so its length is found by bisection, in sets of all n-grams of one
    length. The sets hold their 64-bit hashes: a chance match in a million words has a probability of 10⁻¹³.
    """

    def __init__(self, documents: Iterable[str]) -> None:
        """Index the source; no n-gram crosses the end of a document."""
        self.words = [sys.intern(word) for document in documents for word in (*words(document), END)]
        self.vocabulary = set(self.words)
        self._hashes: dict[int, set[int]] = {}

    def __contains__(self, word: str) -> bool:
        """Whether the source has the word."""
        return word in self.vocabulary

    def longest(self, text: Sequence[str]) -> list[str]:
        """The longest copied n-gram of a text, the first of equals; empty if no word is copied."""
        low, high = 0, len(text)
        best: tuple[str, ...] = ()
        while low < high:
            middle = (low + high + 1) // 2
            if middle not in self._hashes:
                self._hashes[middle] = set(map(hash, _grams(self.words, middle)))
            copied = next((gram for gram in _grams(text, middle) if hash(gram) in self._hashes[middle]), None)
            if copied is None:
                high = middle - 1
            else:
                low, best = middle, copied
        return list(best)
