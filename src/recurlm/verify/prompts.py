"""Held-out prompts of a verification: of different lengths, from all over the text."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int, Integer

PROMPTS = 20
LONGEST = 64  # tokens of a prompt


def prompts_of(text: Integer[np.ndarray, "time"]) -> list[Int[np.ndarray, "_"]]:
    """PROMPTS prompts of 1 to LONGEST tokens, no two of one length. Text that is too short is read again."""
    lengths = np.linspace(1, LONGEST, PROMPTS).astype(np.int64)
    return pieces(text, lengths.tolist())


def texts_of(text: Integer[np.ndarray, "time"], tokens: int) -> list[Int[np.ndarray, "_"]]:
    """PROMPTS texts of different lengths, `tokens` in all, or a few more: for models that fill masks."""
    lengths = np.ceil(np.linspace(0.5, 1.5, PROMPTS) * tokens / PROMPTS).astype(np.int64)
    return pieces(text, lengths.tolist())


def pieces(text: Integer[np.ndarray, "time"], lengths: list[int]) -> list[Int[np.ndarray, "_"]]:
    """Pieces of such lengths that begin at equal distances."""
    begins = np.linspace(0, max(len(text) - max(lengths), 0), len(lengths)).astype(np.int64)
    return [
        np.resize(text[begin : begin + length], length).astype(np.int64)
        for begin, length in zip(begins, lengths, strict=True)
    ]


def padded(
    rows: list[Int[np.ndarray, "_"]], filler: int = 0
) -> tuple[Int[np.ndarray, "rows time"], Int[np.ndarray, "rows"]]:
    """Rows of different lengths as one array, `filler` behind their ends, and the lengths."""
    lengths = np.array([len(row) for row in rows], np.int64)
    tokens = np.full((len(rows), int(lengths.max())), filler, np.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens, lengths
