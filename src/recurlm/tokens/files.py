"""The files that the tokenize stage wrote, checked and mapped into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recurlm.errors import InputError, nearest
from recurlm.shards import shard_path, shards_of
from recurlm.storage import check_sha256, read_json


class ShardedIds:
    """The ids of several files as if they were one array: indexed by integers, slices and arrays.

    A slice within one file is a view of it; otherwise only what is asked for is copied.
    """

    def __init__(self, shards: Sequence[np.ndarray]) -> None:
        self.shards = shards
        self.ends = np.cumsum([len(shard) for shard in shards])
        self.dtype, self.shape, self.ndim = shards[0].dtype, (int(self.ends[-1]),), 1

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            begin, stop, step = index.indices(len(self))
            if step == 1:
                starts = self.ends - [len(shard) for shard in self.shards]
                parts = [
                    shard[max(begin - start, 0) : max(stop - start, 0)]
                    for shard, start, end in zip(self.shards, starts.tolist(), self.ends.tolist(), strict=True)
                    if begin < end and start < stop
                ]
                return parts[0] if len(parts) == 1 else np.concatenate(parts or [self.shards[0][:0]])
            index = np.arange(begin, stop, step)
        index = np.asarray(index)
        if index.dtype == bool:
            index = np.flatnonzero(index)
        if index.size and not -len(self) <= index.min() <= index.max() < len(self):
            raise IndexError(f"an index beyond the {len(self)} ids")
        index = index % len(self)
        number = np.searchsorted(self.ends, index, side="right")
        ids = np.empty(index.shape, self.dtype)
        for which in np.unique(number):
            own, shard = number == which, self.shards[which]
            ids[own] = shard[index[own] - (self.ends[which] - len(shard))]
        return ids[()]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.asarray(self[:], dtype)


Ids = np.ndarray | ShardedIds


@dataclass(frozen=True)
class TokenFile:
    """One split: `ids[starts[d] : starts[d + 1]]` is document d, `<bos>` first."""

    ids: Any  # Ids, uint16 or uint32, mapped: only what is looked at is read
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
    starts_path, dtype = folder / f"{split}.starts.npy", np.dtype(manifest["dtype"]).newbyteorder("<")
    shards = []
    for number, shard in enumerate(shards_of(counts)):
        path = shard_path(folder, split, number, ".bin")
        check_sha256(path, shard["sha256"])
        empty = path.stat().st_size == 0  # which cannot be mapped
        shards.append(np.empty(0, dtype) if empty else np.memmap(path, dtype, mode="r"))
    check_sha256(starts_path, counts["starts_sha256"])
    ids = shards[0] if len(shards) == 1 else ShardedIds(shards)
    return TokenFile(ids, np.load(starts_path), counts, manifest)
