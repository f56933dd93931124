"""The training stream: one long line of ids, folded into rows that are read side by side."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from recurlm.errors import InputError


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
    """

    def __init__(self, ids: np.ndarray, batch_size: int, sequence_length: int, split: str = "train") -> None:
        """Fold `ids`, which may be mapped into memory: a window reads only its own.

        Raises:
            InputError: the split has too few tokens for each row to predict one.
        """
        needed = 2 * batch_size
        if len(ids) < needed:
            raise InputError(
                f"the {split} split has {len(ids)} tokens, and a batch of {batch_size} needs at least {needed}: "
                "lower train.batch_size in params.yaml or give more text"
            )
        length = len(ids) // batch_size
        self._rows = ids[: batch_size * length].reshape(batch_size, length)
        self.sequence_length = sequence_length

    def __len__(self) -> int:
        """Windows in an epoch."""
        return -(-(self._rows.shape[1] - 1) // self.sequence_length)

    def __getitem__(self, index: int) -> Int[Tensor, "batch window"]:
        """Window `index`: `sequence_length` + 1 ids of each row, fewer in the last one, at least two."""
        if not 0 <= index < len(self):
            raise IndexError(f"window {index} of {len(self)}")
        begin = index * self.sequence_length
        return torch.from_numpy(self._rows[:, begin : begin + self.sequence_length + 1].astype(np.int64))

    def __iter__(self) -> Iterator[Int[Tensor, "batch window"]]:
        for index in range(len(self)):
            yield self[index]
