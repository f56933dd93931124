"""Training batches: one long stream of ids, folded into rows that are read side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from recurlm.errors import InputError
from recurlm.tokens.files import Ids


class Stream:
    """All ids of a split, documents one after another, cut into `batch_size` rows of equal length.

    26 ids and a batch of 3 make rows of 8; the remainder, here y and z, is left out of training (never of a score).
    With a sequence length of 3 each pass has three windows, and the last one is shorter:

                              window 0     window 1     window 2
        a b c d e f g h        a b c d      d e f g      g h
        i j k l m n o p   →    i j k l      l m n o      o p
        q r s t u v w x        q r s t      t u v w      w x

    A window's last id is the next one's first: a causal model reads `window[:, :-1]` and predicts `window[:, 1:]`, each
    id once, and carries its state from window to window, because a row goes on where it stopped. A cloze model
    takes the ids of a window as inputs and as targets.

        for window in stream:
            loss = …(window[:, :-1], window[:, 1:])

    One iteration is one epoch. `stream[i]` is window i, so that a run can go on in the middle of one.

    With a seed, each epoch but the first begins somewhere else, and the line goes on from its end to its beginning:
    other ids share a window, other ids are left out. `stream.window(i, epoch)` is window i of such an epoch.
    """

    def __init__(
        self, ids: Ids, batch_size: int, sequence_length: int, split: str = "train", seed: int | None = None
    ) -> None:
        """Fold `ids`, which may be mapped into memory: a window reads only its own.

        Args:
            seed: of the places where epochs begin; None: all begin with the first id.

        Raises:
            InputError: the split has too few tokens for each row to predict one.
        """
        needed = 2 * batch_size
        if len(ids) < needed:
            raise InputError(
                f"the {split} split has {len(ids)} tokens, and a batch of {batch_size} needs at least {needed}: "
                "lower train.data.batch_size in params.yaml or give more text"
            )
        self._ids = ids
        self.length = len(ids) // batch_size  # of a row
        self._seed = seed
        self.batch_size = batch_size
        self.sequence_length = sequence_length

    def __len__(self) -> int:
        """Windows in an epoch."""
        return -(-(self.length - 1) // self.sequence_length)

    @property
    def tokens(self) -> int:
        """Tokens that an epoch predicts (a cloze model: reads)."""
        return self.batch_size * (self.length - 1)

    def __getitem__(self, index: int) -> Int[Tensor, "batch window"]:
        return self.window(index)

    def window(self, index: int, epoch: int = 0) -> Int[Tensor, "batch window"]:
        """Window `index`: `sequence_length` + 1 ids of each row, fewer in the last one, at least two."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        begin = index * self.sequence_length
        row = np.arange(begin, min(begin + self.sequence_length + 1, self.length))
        starts = self._begin(epoch) + self.length * np.arange(self.batch_size)
        return torch.from_numpy(self._ids[(starts[:, None] + row) % len(self._ids)].astype(np.int64))

    def _begin(self, epoch: int) -> int:
        if self._seed is None or epoch == 0:
            return 0
        return int(np.random.default_rng([self._seed, epoch]).integers(len(self._ids)))

    def __iter__(self) -> Iterator[Int[Tensor, "batch window"]]:
        for index in range(len(self)):
            yield self[index]


@dataclass
class Cursor:
    """The window that is read next."""

    epoch: int = 0
    window: int = 0


class BatchIterator:
    """Walks through a stream, epoch by epoch, without end; its cursor can be saved and set."""

    def __init__(self, stream: Stream) -> None:
        self.stream = stream
        self.cursor = Cursor()

    @property
    def epoch_begins(self) -> bool:
        """Whether the next window is the first of an epoch."""
        return self.cursor.window == 0

    def peek(self) -> Int[Tensor, "batch window"]:
        """The next window."""
        return self.stream.window(self.cursor.window, self.cursor.epoch)

    def advance(self) -> None:
        """Go on to the window after it."""
        self.cursor.window += 1
        if self.cursor.window == len(self.stream):
            self.cursor = Cursor(self.cursor.epoch + 1)
