"""Texts of different lengths side by side."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np


def padded(rows: Sequence[Sequence[int]]) -> tuple[Any, Any]:
    """Rows of ids as int64 [batch, time], padded at the right, and their lengths."""
    length = np.array([len(row) for row in rows], np.int64)
    tokens = np.zeros((len(rows), int(length.max())), np.int64)
    for place, row in zip(tokens, rows, strict=True):
        place[: len(row)] = row
    return tokens, length
