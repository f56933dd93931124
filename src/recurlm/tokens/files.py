"""The files that the tokenize stage wrote, checked and mapped into memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recurlm.errors import InputError, nearest
from recurlm.storage import check_sha256, read_json


@dataclass(frozen=True)
class TokenFile:
    """One split: `ids[starts[d] : starts[d + 1]]` is document d, `<bos>` first."""

    ids: np.ndarray  # uint16 or uint32, mapped: only what is looked at is read
    starts: np.ndarray  # int64 [documents + 1]
    counts: dict[str, Any]  # this split's part of the manifest
    manifest: dict[str, Any]


def open_tokens(folder: Path, split: str) -> TokenFile:
    """Open one split of data/tokens.

    Raises:
        InputError: a file is missing or its bytes are not those that were written, or there is no such split.
    """
    manifest = read_json(folder / "manifest.json")
    if split not in manifest["splits"]:
        raise InputError(f"{folder}: no split '{split}': {nearest(split, manifest['splits'])}")
    counts = manifest["splits"][split]
    ids_path, starts_path = folder / f"{split}.bin", folder / f"{split}.starts.npy"
    check_sha256(ids_path, counts["sha256"])
    check_sha256(starts_path, counts["starts_sha256"])
    dtype = np.dtype(manifest["dtype"]).newbyteorder("<")
    empty = ids_path.stat().st_size == 0  # which cannot be mapped
    ids = np.empty(0, dtype) if empty else np.memmap(ids_path, dtype, mode="r")
    return TokenFile(ids, np.load(starts_path), counts, manifest)
