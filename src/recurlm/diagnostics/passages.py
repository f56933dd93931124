"""Random passages of a split, each inside one document."""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Int, Integer
from tokenizers import Tokenizer

from recurlm.tokens.special import BOS, EOL


def passages(
    ids: Integer[np.ndarray, "tokens"],
    starts: Int[np.ndarray, "boundaries"],
    count: int,
    length: int,
    shortest: int,
    seed: int,
    begins: Bool[np.ndarray, "tokens"] | None = None,
) -> Int[np.ndarray, "count length"]:
    """`count` passages of `length` ids, drawn with `seed` without replacement.

    Where documents are too short for that, the length is halved until there are `count` positions, and not below
    `shortest`. Empty ([0, shortest]) where no document has that many ids.

    Args:
        begins: where a passage may begin; it counts where so many passages fit.
    """
    if begins is not None:
        allowed = np.flatnonzero(begins)
        fits = allowed + length <= starts[np.searchsorted(starts, allowed, side="right")]
        allowed = allowed[fits]
        if len(allowed) >= count:
            begin = np.random.default_rng(seed).choice(allowed, count, replace=False)
            return np.asarray(ids[begin[:, None] + np.arange(length)], np.int64)
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


def line_starts(
    ids: Integer[np.ndarray, "tokens"], starts: Int[np.ndarray, "boundaries"], tokenizer: Tokenizer
) -> Bool[np.ndarray, "tokens"]:
    """Whether a token is the first one of a line; `<bos>` is not."""
    vocabulary = [[token] for token in range(tokenizer.get_vocab_size())]
    texts = tokenizer.decode_batch(vocabulary, skip_special_tokens=False)
    ends_line = np.array([text.endswith(("\n", EOL, BOS)) for text in texts])
    first = np.zeros(len(ids), bool)
    first[1:] = ends_line[ids[:-1]]
    first[starts[:-1]] = False
    return first
