"""Loss by position in the context, and by how often the train split has the token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from recurlm.diagnostics.intervals import Bootstrap
from recurlm.tokens.files import Ids

POSITIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # first of each bin
OCCURRENCES = (0, 1, 10, 100, 1000, 10_000, 100_000)
CHUNK = 1 << 22  # ids counted at once; numpy makes each of them 8 bytes


def by_position(
    nats: Float[np.ndarray, "text"],
    units: Int[np.ndarray, "text"],
    lengths: Sequence[int],
    window_tokens: int,
    bootstrap: Bootstrap,
) -> list[dict[str, Any]]:
    """Loss by the number of tokens read since the state was zero, in cold windows, read from the left.

    The first window of a document begins with `<bos>`, each later one with the last token of the one before: position
    1 has read one token.

    Args:
        units: the bootstrap unit of each token: 0, 1, …
        lengths: tokens of text of each document.
    """
    position = np.concatenate([np.zeros(0, int), *(np.arange(length) % window_tokens + 1 for length in lengths)])
    return [
        {"from": first, "to": last, **_mean(nats, units, (position >= first) & (position <= last), bootstrap, "")}
        for first, last in _bins(POSITIONS, window_tokens)
    ]


def by_frequency(
    nats: Float[np.ndarray, "text"],
    units: Int[np.ndarray, "text"],
    ids: Integer[np.ndarray, "text"],
    train_ids: Ids,
    vocab_size: int,
    bootstrap: Bootstrap,
    prefix: str = "",
) -> list[dict[str, Any]]:
    """Loss by the token's count in the train split.

    Args:
        units: the bootstrap unit of each token: 0, 1, …
        prefix: of the loss's name: "pseudo_" for a cloze model (`Objective.metric_prefix`).

    Returns:
        A row a bin; `fraction` is that of the scored tokens.
    """
    occurrences = _counts(train_ids, vocab_size)[ids]
    largest = int(occurrences.max(initial=0))
    rows = []
    for first, last in _bins(OCCURRENCES, largest):
        inside = (occurrences >= first) & (occurrences <= last)
        fraction = float(inside.mean()) if len(nats) else 0.0
        mean = _mean(nats, units, inside, bootstrap, prefix)
        rows.append({"from": first, "to": last, "fraction": fraction, **mean})
    return rows


def _counts(ids: Ids, vocab_size: int) -> Int[np.ndarray, "vocabulary"]:
    """How often each token occurs, a part of the text at a time: the whole may be larger than memory."""
    counts = np.zeros(vocab_size, np.int64)
    for begin in range(0, len(ids), CHUNK):
        counts += np.bincount(ids[begin : begin + CHUNK], minlength=vocab_size)
    return counts


def _bins(firsts: tuple[int, ...], largest: int) -> list[tuple[int, int]]:
    """Adjacent bins, ends included; the last one ends at `largest`."""
    inside = [first for first in firsts if first <= largest]
    return list(zip(inside, [*(first - 1 for first in inside[1:]), largest], strict=True))


def _mean(
    nats: Float[np.ndarray, "text"],
    units: Int[np.ndarray, "text"],
    inside: Bool[np.ndarray, "text"],
    bootstrap: Bootstrap,
    prefix: str,
) -> dict[str, Any]:
    tokens = int(inside.sum())
    sums = np.bincount(units[inside], nats[inside].astype(np.float64))
    counts = np.bincount(units[inside])
    return {
        "tokens": tokens,
        f"{prefix}nats_per_token": float(sums.sum()) / tokens if tokens else None,
        "interval_over_windows": bootstrap.ratio(sums, counts),
    }
