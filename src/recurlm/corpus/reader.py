"""Reading `data/corpus/`: one document after the other, in pieces, with flat memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from recurlm.corpus.utf8 import decode
from recurlm.errors import InputError, nearest
from recurlm.storage import check_sha256, read_json


@dataclass(frozen=True)
class CorpusSplit:
    """The documents of one split."""

    path: Path
    manifest: dict[str, Any]
    """The corpus's whole manifest."""
    sha256: str
    offsets: npt.NDArray[np.int64]
    """The byte at which each document starts; the last one is the file's size."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pieces(self, document: int, size: int = 1 << 20) -> Iterator[str]:
        """The text of one document, about `size` bytes at a time, cut between characters."""
        with self.path.open("rb") as file:
            yield from self._pieces(file, document, size)

    def documents(self, size: int = 1 << 20) -> Iterator[Iterator[str]]:
        """All documents in order, each in pieces to be read before the next document."""
        with self.path.open("rb") as file:
            for document in range(len(self)):
                yield self._pieces(file, document, size)

    def _pieces(self, file: BinaryIO, document: int, size: int) -> Iterator[str]:
        start, end = (int(offset) for offset in self.offsets[document : document + 2])
        return decode(_chunks(file, start, end, size), str(self.path), start)


def open_split(folder: Path, split: str) -> CorpusSplit:
    """Open one split of a corpus.

    Raises:
        InputError: there is no such corpus or split, or its files are not those that were fetched.
    """
    manifest = read_json(folder / "manifest.json")
    if split not in manifest["splits"]:
        raise InputError(f"{folder}: no split '{split}': {nearest(split, manifest['splits'])}")
    entry = manifest["splits"][split]
    path, offsets_path = folder / f"{split}.txt", folder / f"{split}.offsets.npy"
    check_sha256(path, entry["sha256"])
    check_sha256(offsets_path, entry["offsets_sha256"])
    return CorpusSplit(path, manifest, entry["sha256"], np.load(offsets_path))


def _chunks(file: BinaryIO, start: int, end: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end:
        chunk = file.read(min(size, end - start))
        start += len(chunk)
        yield chunk
