"""What the next step reads: windows of the stream, and small parts of them while a run is young.

More steps from the same text help most at the start, while the gradient is large beside its noise (Smith et al. 2018,
arXiv:1711.00489: growing the batch does what lowering the rate does). So during the ramp a window is read in parts, one
step each: first some of its rows, then the others, then on in time. The parts halve in number until a step reads a
whole window.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from recurlm.config import Train
from recurlm.tokens.batches import Stream


@dataclass
class Position:
    """The next part of the stream: of which epoch, of which window, and in how many parts that window is read."""

    epoch: int = 0
    window: int = 0
    part: int = 0
    row_parts: int = 1
    time_parts: int = 1


class Reader:
    """Walks through a stream, epoch by epoch, without end."""

    def __init__(self, stream: Stream, recipe: Train) -> None:
        self.stream = stream
        self.recipe = recipe
        self.position = Position()

    def read(self, share: float) -> tuple[Int[Tensor, "rows window"], slice, bool]:
        """The next part, once `share` of the run is over: its ids, its rows, and whether an epoch begins with it."""
        at = self.position
        if at.part == 0:
            at.row_parts, at.time_parts = parts_at(share, self.recipe)
        window = self.stream.window(at.window, at.epoch)
        time, rows = divmod(at.part, len(even(len(window), at.row_parts)))
        height = even(len(window), at.row_parts)[rows]
        width = even(window.shape[1] - 1, at.time_parts)[time]
        return window[height, width.start : width.stop + 1], height, at.window == 0 and at.part == 0

    def advance(self) -> None:
        """The part was read."""
        at = self.position
        last = min(self.stream.sequence_length, self.stream.length - 1 - at.window * self.stream.sequence_length)
        parts = len(even(self.stream.batch_size, at.row_parts)) * len(even(last, at.time_parts))
        at.part += 1
        if at.part == parts:
            at.part, at.window = 0, at.window + 1
        if at.window == len(self.stream):
            at.window, at.epoch = 0, at.epoch + 1


def parts_at(share: float, recipe: Train) -> tuple[int, int]:
    """Into how many parts a window's rows and its time are cut, when `share` of the run is over."""
    if share >= recipe.ramp_share:
        return 1, 1
    left = 1 - share / recipe.ramp_share
    rows, time = (int(2 ** math.ceil(math.log2(parts) * left)) for parts in (recipe.ramp_batch, recipe.ramp_time))
    return rows, time


def even(length: int, parts: int) -> list[slice]:
    """`length` cut into at most so many parts of one size, the last one smaller."""
    size = -(-length // parts)
    return [slice(at, min(at + size, length)) for at in range(0, length, size)]
