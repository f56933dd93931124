"""Where the loss lies: by how much context a token has, and by how often the train split has the token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from recurlm.diagnostics.intervals import Bootstrap

POSITIONS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024)  # first of each bin
OCCURRENCES = (0, 1, 10, 100, 1000, 10_000, 100_000)


def by_position(
    nats: Float[np.ndarray, "text"],
    units: Int[np.ndarray, "text"],
    lengths: Sequence[int],
    window_tokens: int,
    bootstrap: Bootstrap,
) -> list[dict[str, Any]]:
    """Loss by the number of tokens read before, since the state was zero, of tokens in cold windows.

    The first window of a document begins with `<bos>`, the others with the last token of the window before: each
    has read one token when it predicts its first.

    Args:
        units: to which section, drawn as one by the bootstrap, each token belongs: 0, 1, …
        lengths: tokens of text of each document.
    """
    position = np.concatenate([np.zeros(0, int), *(np.arange(length) % window_tokens + 1 for length in lengths)])
    return [
        {"from": first, "to": last, **_mean(nats, units, (position >= first) & (position <= last), bootstrap)}
        for first, last in _bins(POSITIONS, window_tokens)
    ]


def by_frequency(
    nats: Float[np.ndarray, "text"],
    units: Int[np.ndarray, "text"],
    ids: Integer[np.ndarray, "text"],
    train_ids: Integer[np.ndarray, "tokens"],
    vocab_size: int,
    bootstrap: Bootstrap,
) -> list[dict[str, Any]]:
    """Loss by how often a token occurs in the train split; `share` is that of the scored tokens."""
    occurrences = np.bincount(train_ids, minlength=vocab_size)[ids]
    largest = int(occurrences.max(initial=0))
    rows = []
    for first, last in _bins(OCCURRENCES, largest):
        inside = (occurrences >= first) & (occurrences <= last)
        share = float(inside.mean()) if len(nats) else 0.0
        rows.append({"from": first, "to": last, "share": share, **_mean(nats, units, inside, bootstrap)})
    return rows


def _bins(firsts: tuple[int, ...], largest: int) -> list[tuple[int, int]]:
    """Neighbouring ranges, ends included, the last one up to `largest`."""
    inside = [first for first in firsts if first <= largest]
    return list(zip(inside, [*(first - 1 for first in inside[1:]), largest], strict=True))


def _mean(
    nats: Float[np.ndarray, "text"], units: Int[np.ndarray, "text"], inside: Bool[np.ndarray, "text"], draws: Bootstrap
) -> dict[str, Any]:
    tokens = int(inside.sum())
    sums = np.bincount(units[inside], nats[inside].astype(np.float64))
    counts = np.bincount(units[inside])
    return {
        "tokens": tokens,
        "nats_per_token": float(sums.sum()) / tokens if tokens else None,
        "interval_over_windows": draws.ratio(sums, counts),
    }
