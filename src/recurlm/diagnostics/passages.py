"""Random passages of a split, each inside one document."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Integer


def passages(
    ids: Integer[np.ndarray, "tokens"],
    starts: Int[np.ndarray, "boundaries"],
    count: int,
    length: int,
    shortest: int,
    seed: int,
) -> Int[np.ndarray, "count length"]:
    """`count` passages of `length` ids, drawn with `seed` without replacement.

    Where documents are too short for that, the length is halved until there are `count` positions, and not below
    `shortest`. Empty ([0, shortest]) where no document has that many ids.
    """
    while True:
        room = np.maximum(np.diff(starts) - length + 1, 0)  # positions where a passage may begin, by document
        if room.sum() >= count or length <= shortest:
            break
        length = max(shortest, length // 2)
    positions = int(room.sum())
    chosen = (
        np.random.default_rng(seed).choice(positions, min(count, positions), replace=False)
        if positions
        else np.zeros(0, int)
    )
    ends = np.cumsum(room)
    document = np.searchsorted(ends, chosen, side="right")
    begin = starts[document] + chosen - (ends - room)[document]
    return np.asarray(ids[begin[:, None] + np.arange(length)], np.int64)
