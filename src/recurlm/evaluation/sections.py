"""Which tokens are scored, and after how much context: the same for every scorer.

A long document is cut into sections that are scored side by side. A section deeper in a document is read from a zero
state, so it is warmed up on the tokens before it, which are read and not scored. With 8 tokens a section and 3 of
warm-up (s: `<bos>`, ~: read, #: read and scored):

    document        s a b c d e f g h i j k l m n o p q r
    section 1       ~ # # # # # # # #
    section 2                   ~ ~ ~ # # # # # # # #
    section 3                                   ~ ~ ~ # #
    in cloze, 2                 ~ ~ ~ # # # # # # # # ~ ~

So every text token stands in exactly one section, and `<bos>` in none. A cloze model reads on both sides of the
token that it scores: its sections are warmed up from the right as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer


@dataclass(frozen=True)
class Sections:
    """Positions in the ids of a split, one entry a section: it reads [begin, stop) and scores [first, end)."""

    begin: Int[np.ndarray, "sections"]
    first: Int[np.ndarray, "sections"]
    end: Int[np.ndarray, "sections"]
    stop: Int[np.ndarray, "sections"]
    both_sides: bool

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def tokens(self) -> int:
        """How many tokens are scored."""
        return int((self.end - self.first).sum())


class Batch(NamedTuple):
    """Sections side by side, padded at the right to the longest; `length` says where each row's own tokens end.

    `scored` belongs to the tokens after the first of a row: that one is `<bos>` or warm-up, and never scored.
    """

    tokens: Int[np.ndarray, "batch time"]
    length: Int[np.ndarray, "batch"]
    scored: Bool[np.ndarray, "batch predicted"]
    begin: Int[np.ndarray, "batch"]
    """Where in the ids of the split each row's first token stands."""

    @property
    def places(self) -> Int[np.ndarray, "scored_tokens"]:
        """Where in the ids the scored tokens stand, in the order of `x[scored]`."""
        place = self.begin[:, None] + 1 + np.arange(self.scored.shape[1])
        return np.asarray(place[self.scored])


def cut(
    starts: Int[np.ndarray, "boundaries"], window_tokens: int, context_tokens: int, both_sides: bool = False
) -> Sections:
    """Cut the documents that start at `starts` (the last entry: where the ids end) into sections.

    A token can only be predicted from at least one before it, so the left warm-up is never shorter than one token.
    """
    starts = np.asarray(starts, dtype=np.int64)
    count = -(-(np.diff(starts) - 1) // window_tokens)  # of each document's sections; rounded up, <bos> not counted
    document = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)  # within its document
    first = starts[document] + 1 + number * window_tokens
    end = np.minimum(first + window_tokens, starts[document + 1])
    begin = np.maximum(first - max(context_tokens, 1), starts[document])
    stop = np.minimum(end + context_tokens, starts[document + 1]) if both_sides else end
    return Sections(begin, first, end, stop, both_sides)


def batches(ids: Integer[np.ndarray, "tokens"], sections: Sections, batch_size: int) -> Iterator[Batch]:
    """Read sections of like length side by side, the longest first, so that memory shows its peak at once.

    Padding stands at the right, where a model that reads from the left meets it after all that is scored. One that
    reads from the right would meet it first: sections that are read from both sides share a batch only at equal length.
    """
    length = sections.stop - sections.begin
    order = np.argsort(-length, kind="stable")
    alike = np.split(order, np.flatnonzero(np.diff(length[order])) + 1) if sections.both_sides else [order]
    for group in alike:
        for at in range(0, len(group), batch_size):
            yield _read(ids, sections, group[at : at + batch_size])


def _read(ids: Integer[np.ndarray, "tokens"], sections: Sections, rows: Int[np.ndarray, "batch"]) -> Batch:
    begin, first, end, stop = (
        positions[rows, None] for positions in (sections.begin, sections.first, sections.end, sections.stop)
    )
    place = begin + np.arange((stop - begin).max())
    tokens = ids[np.minimum(place, stop - 1)].astype(np.int64)
    scored = (place >= first) & (place < end)
    return Batch(tokens, (stop - begin)[:, 0], scored[:, 1:], begin[:, 0])
