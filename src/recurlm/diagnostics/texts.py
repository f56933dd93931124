"""Measures of generated text: distinct-n, seq-rep-n, and the longest n-gram copied from the training text.

A word is a sequence of letters and digits, with inner apostrophes and hyphens, in lower case: punctuation and case hide
neither a copy nor a repetition.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

WORD = re.compile(r"\w+(?:['’-]\w+)*")
# No word has one of these, and what is lower case on its one side does not depend on its other.
BETWEEN = re.compile(r"[\s、。！，？]")


def words(text: str) -> list[str]:
    """The words of a text, in order."""
    return WORD.findall(text.lower())


def words_of(pieces: Iterable[str]) -> Iterator[str]:
    """The words of a text in pieces, in order, wherever it is cut."""
    held: list[str] = []
    for piece in pieces:
        end = max((match.end() for match in BETWEEN.finditer(piece)), default=0)
        if end:
            yield from words("".join((*held, piece[:end])))
            held = []
        held.append(piece[end:])
    yield from words("".join(held))


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
    """Finds the longest n-gram that each of some texts shares with a source.

    The texts, which are few, are indexed, in a suffix automaton (Blumer et al. 1985): its states are the n-grams of the
    texts, those together that end at the same places. The source, which may be large, is read through it once; nothing
    of it is kept.
    """

    def __init__(self, texts: Iterable[Sequence[str]], source: Iterable[Iterable[str]]) -> None:
        """Index the texts, and read the documents of the source, each in pieces; no n-gram crosses a document's end."""
        self._next: list[dict[str | int, int]] = [{}]  # the first state is the empty n-gram
        self._link, self._length = [-1], [0]  # the state of the longest shorter end of an n-gram; the longest's words
        self._last = 0
        for number, text in enumerate(texts):
            for word in text:
                self._append(word)
            self._append(number)  # which is no word, so that no n-gram crosses the end of a text
        self._copied = [0] * len(self._next)  # words of the longest n-gram of a state that the source has
        for document in source:
            self._read(words_of(document))
        for state in sorted(range(1, len(self._next)), key=self._length.__getitem__, reverse=True):
            if self._copied[state]:  # then so is every end of it
                self._copied[self._link[state]] = self._length[self._link[state]]

    def _state(self, length: int, follow: dict[str | int, int], link: int) -> int:
        self._next.append(follow)
        self._link.append(link)
        self._length.append(length)
        return len(self._next) - 1

    def _append(self, word: str | int) -> None:
        follow, link, length = self._next, self._link, self._length
        new, state = self._state(length[self._last] + 1, {}, 0), self._last
        while state >= 0 and word not in follow[state]:
            follow[state][word] = new
            state = link[state]
        if state >= 0:
            seen = follow[state][word]
            if length[seen] == length[state] + 1:
                link[new] = seen
            else:  # some n-grams of `seen` now end at one more place than the others
                part = self._state(length[state] + 1, dict(follow[seen]), link[seen])
                while state >= 0 and follow[state].get(word) == seen:
                    follow[state][word] = part
                    state = link[state]
                link[seen] = link[new] = part
        self._last = new

    def _read(self, document: Iterable[str]) -> None:
        state = length = 0
        for word in document:
            while state and word not in self._next[state]:
                state = self._link[state]
                length = self._length[state]
            if word in self._next[state]:
                state, length = self._next[state][word], length + 1
                self._copied[state] = max(self._copied[state], length)

    def __contains__(self, word: str) -> bool:
        """Whether the source has a word of the texts."""
        return self._copied[self._next[0][word]] > 0

    def longest(self, text: Sequence[str]) -> list[str]:
        """The longest copied n-gram of one of the texts, the first of equals; empty if no word is copied."""
        state = begin = size = 0
        for position, word in enumerate(text):
            state = end = self._next[state][word]
            while end and not self._copied[end]:
                end = self._link[end]
            if self._copied[end] > size:
                size = self._copied[end]
                begin = position + 1 - size
        return list(text[begin : begin + size])
