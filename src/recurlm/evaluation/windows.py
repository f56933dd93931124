"""Overlapping windows: which tokens are scored, and with how much context. The same for every scorer.

A long document is split into windows that are scored in parallel. Each is read from a zero state, so it begins with
context: tokens that are read and not scored. With windows of 8 tokens and a context of 3 (s: `<bos>`,
~: read, #: read and scored):

    document        s a b c d e f g h i j k l m n o p q r
    window 1        ~ # # # # # # # #
    window 2                    ~ ~ ~ # # # # # # # #
    window 3                                    ~ ~ ~ # #
    in cloze, 2                 ~ ~ ~ # # # # # # # # ~ ~

So every text token is scored in exactly one window, and `<bos>` in none. A cloze model reads both sides of the token
that it scores: its windows have context on the right as well.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Int, Integer

from recurlm.tokens.files import Ids


@dataclass(frozen=True)
class Windows:
    """Positions in the ids of a split: window i reads [begin, stop) and scores [first, end)."""

    begin: Int[np.ndarray, "windows"]
    first: Int[np.ndarray, "windows"]
    end: Int[np.ndarray, "windows"]
    stop: Int[np.ndarray, "windows"]
    both_sides: bool

    def __len__(self) -> int:
        return len(self.begin)

    @property
    def tokens(self) -> int:
        """The number of scored tokens."""
        return int((self.end - self.first).sum())

    def sample(self, tokens: int) -> Windows:
        """Windows that are evenly spread over these and score about `tokens` tokens, at least one; all if too few."""
        count = min(len(self), max(1, round(tokens * len(self) / self.tokens)))
        kept = (np.arange(count) * 2 + 1) * len(self) // (2 * count)
        begin, first, end, stop = (each[kept] for each in (self.begin, self.first, self.end, self.stop))
        return Windows(begin, first, end, stop, self.both_sides)


class Batch(NamedTuple):
    """Windows side by side, padded at the right to the longest; `length` says where each row's own tokens end.

    `scored` is for `tokens[:, 1:]`: the first token of a row is `<bos>` or context.
    """

    tokens: Int[np.ndarray, "batch time"]
    length: Int[np.ndarray, "batch"]
    scored: Bool[np.ndarray, "batch predicted"]
    begin: Int[np.ndarray, "batch"]
    """The position of each row's first token in the ids of the split."""

    @property
    def positions(self) -> Int[np.ndarray, "scored_tokens"]:
        """The positions of the scored tokens in the ids of the split, in the order of `x[scored]`."""
        position = self.begin[:, None] + 1 + np.arange(self.scored.shape[1])
        return np.asarray(position[self.scored])


def split_windows(
    starts: Int[np.ndarray, "boundaries"], window_tokens: int, context_tokens: int, both_sides: bool = False
) -> Windows:
    """Split the documents that begin at `starts` (the last entry: where the ids end) into windows.

    The left context is at least one token, from which the first prediction is made.
    """
    starts = np.asarray(starts, dtype=np.int64)
    count = -(-(np.diff(starts) - 1) // window_tokens)  # of each document's windows; rounded up, <bos> not counted
    document = np.repeat(np.arange(len(count)), count)
    number = np.arange(len(document)) - np.repeat(np.cumsum(count) - count, count)  # within its document
    first = starts[document] + 1 + number * window_tokens
    end = np.minimum(first + window_tokens, starts[document + 1])
    begin = np.maximum(first - max(context_tokens, 1), starts[document])
    stop = np.minimum(end + context_tokens, starts[document + 1]) if both_sides else end
    return Windows(begin, first, end, stop, both_sides)


def batches(ids: Integer[Ids, "tokens"], windows: Windows, batch_size: int) -> Iterator[Batch]:
    """Batch windows of similar length, the longest first, so that the peak of memory comes first.

    Padding is at the right, after all scored tokens. A model that reads from the right would read it first: windows
    with context on both sides share a batch only at equal length.
    """
    length = windows.stop - windows.begin
    order = np.argsort(-length, kind="stable")
    groups = np.split(order, np.flatnonzero(np.diff(length[order])) + 1) if windows.both_sides else [order]
    for group in groups:
        for begin in range(0, len(group), batch_size):
            yield _read(ids, windows, group[begin : begin + batch_size])


def _read(ids: Integer[Ids, "tokens"], windows: Windows, rows: Int[np.ndarray, "batch"]) -> Batch:
    begin, first, end, stop = (
        positions[rows, None] for positions in (windows.begin, windows.first, windows.end, windows.stop)
    )
    position = begin + np.arange((stop - begin).max())
    tokens = ids[np.minimum(position, stop - 1)].astype(np.int64)
    scored = (position >= first) & (position < end)
    return Batch(tokens, (stop - begin)[:, 0], scored[:, 1:], begin[:, 0])
