"""What a text is like: how varied, how repetitive, how much of it words that exist, and how long a run was copied.

A word is a run of letters and digits, apostrophes and hyphens inside it included, in lower case: punctuation and
capitals hide neither a copy nor a repetition.
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
    """Distinct-n: different n-grams over all n-grams, of all texts together (Li et al. 2016, arXiv:1510.03055)."""
    found = [gram for text in texts for gram in _grams(text, n)]
    return len(set(found)) / len(found) if found else None


def repetition(texts: Iterable[Sequence[str]], n: int) -> float | None:
    """seq-rep-n: the share of n-grams that stand in their own text before (Welleck et al. 2020, arXiv:1908.04319)."""
    total = different = 0
    for text in texts:
        grams = _grams(text, n)
        total, different = total + len(grams), different + len(set(grams))
    return (total - different) / total if total else None


def _grams(text: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(text[at : at + n]) for at in range(len(text) - n + 1)]


class Copies:
    """Finds what a text has copied from a source: runs of words that stand in both.

    Every run of L words has a polynomial hash modulo 2⁶⁴, found for all places at once from the hashes of prefixes
    (Karp & Rabin 1987). A run of L words holds one of L − 1, so the longest is found by bisection; what a hash says is
    looked up in the source before it counts.
    """

    def __init__(self, documents: Iterable[str]) -> None:
        """Read the source; no run goes over the end of a document."""
        self.numbers: dict[str, int] = {}
        ids: list[int] = []
        for document in documents:
            ids.extend(self.numbers.setdefault(word, len(self.numbers) + 2) for word in words(document))
            ids.append(1)  # no word
        self.ids = np.array(ids, np.int64)
        self._prefixes = _prefixes(self.ids)
        self._sorted: dict[int, UInt64[np.ndarray, "runs"]] = {}

    def knows(self, word: str) -> bool:
        """Whether the source has the word."""
        return word in self.numbers

    def longest(self, text: Sequence[str]) -> tuple[int, int]:
        """How many words the longest copied run of a text has, and where it begins; (0, 0) if there is none."""
        ids = np.array([self.numbers.get(word, 0) for word in text], np.int64)  # 0: in no source
        prefixes = _prefixes(ids)
        low, high, place = 0, min(len(ids), len(self.ids)), 0
        while low < high:
            middle = (low + high + 1) // 2
            found = self._find(ids, prefixes, middle)
            if found is None:
                high = middle - 1
            else:
                low, place = middle, found
        return low, place

    def _find(self, ids: Integer[np.ndarray, "words"], prefixes: UInt64[np.ndarray, "ends"], length: int) -> int | None:
        """The first run of so many words that the source has."""
        if length not in self._sorted:
            self._sorted[length] = np.sort(_hashes(self._prefixes, length))
        there, wanted = self._sorted[length], _hashes(prefixes, length)
        near = np.minimum(np.searchsorted(there, wanted), len(there) - 1)
        for place in np.flatnonzero(there[near] == wanted):
            for start in np.flatnonzero(_hashes(self._prefixes, length) == wanted[place]):
                if np.array_equal(self.ids[start : start + length], ids[place : place + length]):
                    return int(place)
        return None


def _prefixes(ids: Integer[np.ndarray, "words"]) -> UInt64[np.ndarray, "ends"]:
    """Σ ids[i] BASEⁱ over each prefix, the empty one first; sums wrap around at 2⁶⁴."""
    powers = np.cumprod(np.concatenate([[np.uint64(1)], np.full(max(len(ids) - 1, 0), BASE)]), dtype=np.uint64)
    scrambled = (ids.astype(np.uint64) + np.uint64(1)) * BASE
    scrambled ^= scrambled >> np.uint64(29)  # neighbouring numbers have nothing in common any more
    terms = scrambled * powers[: len(ids)]
    return np.concatenate([np.zeros(1, np.uint64), np.cumsum(terms, dtype=np.uint64)])


def _hashes(prefixes: UInt64[np.ndarray, "ends"], length: int) -> UInt64[np.ndarray, "runs"]:
    """The hash of each run of `length` words, the same wherever it stands."""
    runs = len(prefixes) - length
    inverse = np.uint64(pow(int(BASE), -1, 1 << 64))
    shift = np.cumprod(np.concatenate([[np.uint64(1)], np.full(max(runs - 1, 0), inverse)]), dtype=np.uint64)
    return np.asarray((prefixes[length:] - prefixes[:runs]) * shift[:runs])
