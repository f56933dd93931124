"""Reading `data/corpus/`: one document after the other, in pieces, with flat memory."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from jaxtyping import Int64

from recurlm.errors import InputError, nearest
from recurlm.shards import shard_path, shards_of
from recurlm.storage import check_sha256, read_json

PIECE = 1 << 20  # bytes


@dataclass(frozen=True)
class CorpusShard:
    """The documents of one file, or of the part of a split that is in it."""

    path: Path
    sha256: str
    offsets: Int64[np.ndarray, "boundaries"]
    """The byte at which each document starts, or the file where one goes on; the last one is the file's size."""
    goes_on: bool = False
    """Whether the first document began in the shard before."""

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def check(self) -> None:
        """Compare the file with the hash in the manifest.

        Raises:
            InputError: its bytes are not those that were fetched.
        """
        check_sha256(self.path, self.sha256)

    def pieces(self, document: int, size: int = PIECE) -> Iterator[str]:
        """The text of one document, about `size` bytes at a time, cut between characters."""
        with self.path.open("rb") as file:
            yield from self._pieces(file, document, size)

    def documents(self, size: int = PIECE) -> Iterator[Iterator[str]]:
        """All documents in order, each in pieces to be read before the next document."""
        with self.path.open("rb") as file:
            for document in range(len(self)):
                yield self._pieces(file, document, size)

    def _pieces(self, file: BinaryIO, document: int, size: int) -> Iterator[str]:
        start, end = (int(offset) for offset in self.offsets[document : document + 2])
        return decode(_chunks(file, start, end, size), str(self.path), start)


@dataclass(frozen=True)
class CorpusSplit:
    """The documents of one split."""

    manifest: dict[str, Any]
    """The corpus's whole manifest."""
    sha256: str
    offsets: Int64[np.ndarray, "boundaries"]
    """The byte of all shards together at which each document starts; the last one is their size."""
    shards: tuple[CorpusShard, ...]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def pieces(self, document: int, size: int = PIECE) -> Iterator[str]:
        """The text of one document, about `size` bytes at a time, cut between characters."""
        first = 0  # document of the shard
        for shard in self.shards:
            first -= shard.goes_on
            if first <= document < first + len(shard):
                yield from shard.pieces(document - first, size)
            first += len(shard)

    def documents(self, size: int = PIECE) -> Iterator[Iterator[str]]:
        """All documents in order, each in pieces."""
        return (self.pieces(document, size) for document in range(len(self)))


def open_split(folder: Path, split: str, check: bool = True) -> CorpusSplit:
    """Open one split of a corpus.

    Args:
        check: text of several shards; otherwise who reads a shard has to.

    Raises:
        InputError: there is no such corpus or split, or its files are not those that were fetched.
    """
    manifest = read_json(folder / "manifest.json")
    if split not in manifest["splits"]:
        raise InputError(f"{folder}: no split '{split}': {nearest(split, manifest['splits'])}")
    entry = manifest["splits"][split]
    offsets_path = folder / f"{split}.offsets.npy"
    check_sha256(offsets_path, entry["offsets_sha256"])
    offsets = np.load(offsets_path)
    shards, begin = [], 0
    for number, part in enumerate(shards_of(entry)):
        end = begin + part["bytes"]
        first, last = np.searchsorted(offsets[:-1], [begin, end])
        goes_on = first == len(offsets) - 1 or offsets[first] != begin
        own = np.concatenate([[begin] * bool(goes_on), offsets[first:last], [end]]).astype(np.int64) - begin
        shards.append(CorpusShard(shard_path(folder, split, number, ".txt"), part["sha256"], own, bool(goes_on)))
        begin = end
    if check or len(shards) == 1:
        for shard in shards:
            shard.check()
    return CorpusSplit(manifest, entry["sha256"], offsets, tuple(shards))


def decode(chunks: Iterable[bytes], name: str, offset: int = 0) -> Iterator[str]:
    """The text of a stream of UTF-8 bytes, piece by piece; `offset` is where in `name` the stream starts.

    No line end is translated.

    Raises:
        InputError: the bytes are not UTF-8; `name` and the offset of the first bad one are named.
    """
    rest = b""
    for chunk in chunks:
        text, rest, offset = _decode_part(rest + chunk, name, offset, final=False)
        if text:
            yield text
    _decode_part(rest, name, offset, final=True)


def _decode_part(data: bytes, name: str, offset: int, final: bool) -> tuple[str, bytes, int]:
    """The text of all whole characters, the bytes of one that is not whole yet, and the offset of those."""
    try:
        text, used = codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: not UTF-8 at byte offset {offset + error.start} (0x{data[error.start]:02x}): "
            f"convert it first, for instance with iconv -t utf-8"
        ) from None
    return text, data[used:], offset + used


def _chunks(file: BinaryIO, start: int, end: int, size: int) -> Iterator[bytes]:
    file.seek(start)
    while start < end:
        chunk = file.read(min(size, end - start))
        if not chunk:
            raise InputError(f"{file.name}: shorter than it was: fetch it again")
        start += len(chunk)
        yield chunk
