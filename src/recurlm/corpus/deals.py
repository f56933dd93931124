"""How documents are dealt to the splits: drawn by a seed, or in order.

A rule gets the lengths of all documents and gives runs: stretches of text, in order, each with its split.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Int64

from recurlm.corpus.base import SPLITS, Runs

Lengths = Int64[np.ndarray, "documents"]


def by_document(lengths: Lengths, validation: int, test: int, seed: int) -> Runs:
    """Whole documents, drawn by the seed; within a split they keep their order.

    The order of drawing is that of hashes, so that no new version of a random generator can change it.
    """
    hashes = (hashlib.blake2b(f"{seed} {number}".encode(), digest_size=8) for number in range(len(lengths)))
    keys = np.fromiter((int.from_bytes(key.digest(), "big") for key in hashes), np.uint64, len(lengths))
    drawn = np.argsort(keys, kind="stable")
    split = np.full(len(lengths), SPLITS.index("train"), np.uint8)
    split[drawn[:validation]] = SPLITS.index("validation")
    split[drawn[validation : validation + test]] = SPLITS.index("test")
    return split, np.cumsum(lengths)


def by_document_fractions(lengths: Lengths, validation: float, test: float, seed: int) -> Runs:
    """Whole documents, as many as there are splits or more, drawn by the seed; each split gets one at least."""
    count = len(lengths)
    to_validation = min(max(round(count * validation), 1), count - 2)
    to_test = min(max(round(count * test), 1), count - to_validation - 1)
    return by_document(lengths, to_validation, to_test, seed)


def by_position(lengths: Lengths, shares: Mapping[str, float]) -> Runs:
    """One stretch of characters a split, in the order of `shares`; a cut may fall inside a line."""
    total = int(lengths.sum())
    ends = np.cumsum(list(shares.values()))
    return _numbers(shares), np.array([int(total * float(end)) for end in ends / ends[-1]], np.int64)


def by_order(lengths: Lengths, shares: Mapping[str, float]) -> Runs:
    """One stretch of whole documents a split, in the order of `shares`; too few documents are cut by position."""
    count = len(lengths)
    if count < len(shares):
        return by_position(lengths, shares)
    counts = {split: max(1, int(count * share)) for split, share in shares.items()}
    first = next(iter(shares))
    counts[first] += count - sum(counts.values())
    return _numbers(shares), np.cumsum(lengths)[np.cumsum(list(counts.values())) - 1]


def _numbers(shares: Mapping[str, float]) -> np.ndarray:
    return np.array([SPLITS.index(split) for split in shares], np.uint8)
