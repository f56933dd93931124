"""How documents are dealt to the splits: drawn by a seed, or in order.

A rule gets the lengths of all documents and gives runs: stretches of text, in order, each with its split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping

import numpy as np

from recurlm.corpus.base import SPLITS, Lengths, Run


def by_document(lengths: Lengths, validation: int, test: int, seed: int) -> Iterator[Run]:
    """Whole documents, drawn by the seed; within a split they keep their order.

    The order of drawing is that of hashes, so that no new version of a random generator can change it.
    """
    hashes = (hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8) for number in range(len(lengths)))
    keys = np.fromiter((int.from_bytes(key.digest(), "big") for key in hashes), np.uint64, len(lengths))
    drawn = np.argsort(keys, kind="stable")
    split = np.full(len(lengths), SPLITS.index("train"), np.uint8)
    split[drawn[:validation]] = SPLITS.index("validation")
    split[drawn[validation : validation + test]] = SPLITS.index("test")
    for number, end in zip(split, np.cumsum(lengths), strict=True):
        yield SPLITS[number], int(end)


def by_document_fractions(lengths: Lengths, validation: float, test: float, seed: int) -> Iterator[Run]:
    """Whole documents, as many as there are splits or more, drawn by the seed; each split gets one at least."""
    count = len(lengths)
    to_validation = min(max(round(count * validation), 1), count - 2)
    to_test = min(max(round(count * test), 1), count - to_validation - 1)
    return by_document(lengths, to_validation, to_test, seed)


def by_position(lengths: Lengths, shares: Mapping[str, float]) -> Iterator[Run]:
    """One stretch of characters a split, in the order of `shares`; a cut may fall inside a line."""
    total = int(lengths.sum())
    ends = np.cumsum(list(shares.values()))
    for split, end in zip(shares, ends / ends[-1], strict=True):
        yield split, int(total * float(end))


def by_order(lengths: Lengths, shares: Mapping[str, float]) -> Iterator[Run]:
    """One stretch of whole documents a split, in the order of `shares`; too few documents are cut by position."""
    count = len(lengths)
    if count < len(shares):
        yield from by_position(lengths, shares)
        return
    counts = {split: max(1, int(count * share)) for split, share in shares.items()}
    first = next(iter(shares))
    counts[first] += count - sum(counts.values())
    ends, number = np.cumsum(lengths), 0
    for split in shares:
        number += counts[split]
        yield split, int(ends[number - 1])
