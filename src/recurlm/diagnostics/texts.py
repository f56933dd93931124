"""Measures of generated text: distinct-n, seq-rep-n, and the longest n-gram copied from the training text.

A word is a sequence of letters and digits, with inner apostrophes and hyphens, in lower case: punctuation and case hide
neither a copy nor a repetition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Integer, UInt64

WORD = re.compile(r"\w+(?:['’-]\w+)*")
BASE = np.uint64(0x9E3779B97F4A7C15)  # odd, so that its powers never become zero modulo 2⁶⁴


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
        grams = _grams(text, n)
        total, different = total + len(grams), different + len(set(grams))
    return (total - different) / total if total else None


def _grams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[i : i + n]) for i in range(len(text) - n + 1)]


class CopyFinder:
    """Finds the longest n-gram that a text shares with a source.

    Every n-gram has a polynomial hash modulo 2⁶⁴, computed at all positions at once from the hashes of prefixes (Karp &
    Rabin 1987). A shared n-gram contains a shared (n − 1)-gram, so the longest is found by bisection. Equal hashes are
    confirmed in the source.
    """

    def __init__(self, documents: Iterable[str]) -> None:
        """Index the source; no n-gram crosses the end of a document."""
        self.vocabulary: dict[str, int] = {}
        ids: list[int] = []
        for document in documents:
            ids.extend(self.vocabulary.setdefault(word, len(self.vocabulary) + 2) for word in words(document))
            ids.append(1)  # no word
        self.ids = np.array(ids, np.int64)
        self._prefixes = _prefixes(self.ids)
        self._sorted: dict[int, UInt64[np.ndarray, "ngrams"]] = {}

    def __contains__(self, word: str) -> bool:
        """Whether the source has the word."""
        return word in self.vocabulary

    def longest(self, text: Sequence[str]) -> tuple[int, int]:
        """Length and start of the longest copied n-gram of a text; (0, 0) if no word is copied."""
        ids = np.array([self.vocabulary.get(word, 0) for word in text], np.int64)  # 0: in no source
        prefixes = _prefixes(ids)
        low, high, start = 0, min(len(ids), len(self.ids)), 0
        while low < high:
            middle = (low + high + 1) // 2
            position = self._find(ids, prefixes, middle)
            if position is None:
                high = middle - 1
            else:
                low, start = middle, position
        return low, start

    def _find(self, ids: Integer[np.ndarray, "words"], prefixes: UInt64[np.ndarray, "ends"], length: int) -> int | None:
        """The start of the first n-gram of this length that the source has."""
        if length not in self._sorted:
            self._sorted[length] = np.sort(_hashes(self._prefixes, length))
        source, hashes = self._sorted[length], _hashes(prefixes, length)
        nearest = np.minimum(np.searchsorted(source, hashes), len(source) - 1)
        for position in np.flatnonzero(source[nearest] == hashes):
            for start in np.flatnonzero(_hashes(self._prefixes, length) == hashes[position]):
                if np.array_equal(self.ids[start : start + length], ids[position : position + length]):
                    return int(position)
        return None


def _prefixes(ids: Integer[np.ndarray, "words"]) -> UInt64[np.ndarray, "ends"]:
    """Σ ids[i] BASEⁱ over each prefix, the empty one first; sums wrap around at 2⁶⁴."""
    powers = np.cumprod(np.concatenate([[np.uint64(1)], np.full(max(len(ids) - 1, 0), BASE)]), dtype=np.uint64)
    scrambled = (ids.astype(np.uint64) + np.uint64(1)) * BASE
    scrambled ^= scrambled >> np.uint64(29)  # so that consecutive ids are unrelated
    terms = scrambled * powers[: len(ids)]
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])


def _hashes(prefixes: UInt64[np.ndarray, "ends"], length: int) -> UInt64[np.ndarray, "ngrams"]:
    """The hash of each n-gram of `length` words, independent of its position."""
    count = len(prefixes) - length
    inverse = np.uint64(pow(int(BASE), -1, 1 << 64))
    shift = np.cumprod(np.concatenate([[np.uint64(1)], np.full(max(count - 1, 0), inverse)]), dtype=np.uint64)
    return np.asarray((prefixes[length:] - prefixes[:count]) * shift[:count])
