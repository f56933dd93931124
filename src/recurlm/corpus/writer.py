"""From a source to `data/corpus/`: each split's text, where its documents start, and a manifest.

Text goes from the source to the disk piece by piece: memory holds one piece, and eight bytes a document.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from recurlm.corpus.base import SPLITS, Lengths, Part, Source
from recurlm.errors import InputError
from recurlm.storage import sha256_of, whole_folder, write_json

Progress = Callable[[int], object]
"""Told the characters of each piece that is read. What is drawn or cut is read twice: measured first, then dealt."""


def write(source: Source, folder: Path, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Write the corpus, whole or not at all, and return its manifest.

    Raises:
        InputError: a text is not as it should be, or a split would be empty.
    """
    with whole_folder(folder) as partial, ExitStack() as files:
        splits = {name: _Split(partial, name, files) for name in SPLITS}
        for number, part in enumerate(source.parts):
            for name, document, text in _dealt(part, progress):
                title = part.names[document] if part.names else None
                splits[name].add((number, document), text, title)
        manifest = {
            "source": source.kind,
            "name": source.name,
            "revision": source.revision,
            "licence": source.licence,
            "splits": {name: split.close() for name, split in splits.items()},
        }
        write_json(partial / "manifest.json", manifest)
    return manifest


class _Split:
    """One split's files while they grow."""

    def __init__(self, folder: Path, name: str, files: ExitStack) -> None:
        self.name = name
        self.text_path = folder / f"{name}.txt"
        self.offsets_path = folder / f"{name}.offsets.npy"
        self.file: BinaryIO = files.enter_context(self.text_path.open("wb"))
        self.hash = hashlib.sha256()
        self.offsets = array("q")
        self.titles: list[str] = []
        self.characters = self.bytes = 0
        self.document: object = None

    def add(self, document: object, text: str, title: str | None) -> None:
        """Append a piece of a document."""
        if document != self.document:
            self.document = document
            self.offsets.append(self.bytes)
            if title is not None:
                self.titles.append(title)
        data = text.encode("utf-8")
        self.file.write(data)
        self.hash.update(data)
        self.characters += len(text)
        self.bytes += len(data)

    def close(self) -> dict[str, Any]:
        """Finish the files, and give the split's entry in the manifest."""
        if not self.bytes:
            raise InputError(
                f"fetch: the {self.name} split would be empty: give it a larger share or more text to draw from"
            )
        self.file.close()
        documents = len(self.offsets)
        self.offsets.append(self.bytes)
        np.save(self.offsets_path, np.frombuffer(self.offsets, np.int64).astype("<i8", copy=False))
        entry: dict[str, Any] = {
            "sha256": self.hash.hexdigest(),
            "offsets_sha256": sha256_of(self.offsets_path),
            "documents": documents,
            "characters": self.characters,
            "bytes": self.bytes,
        }
        return entry | ({"names": self.titles} if self.titles else {})


def _dealt(part: Part, progress: Progress) -> Iterator[tuple[str, int, str]]:
    """Every piece of a part with its split, cut in two where a run ends inside it."""
    if isinstance(part.deal, str):
        for document, text in _pieces(part, progress):
            yield part.deal, document, text
        return
    runs = iter(part.deal(_lengths(_pieces(part, progress))))
    split, end, position = "", 0, 0
    for document, text in _pieces(part, progress):
        while text:
            while position == end:
                split, end = next(runs)
            here = text[: end - position]
            yield split, document, here
            position += len(here)
            text = text[len(here) :]


def _pieces(part: Part, progress: Progress) -> Iterator[tuple[int, str]]:
    for row in part.documents:
        if row["text"]:  # a document without text is none
            progress(len(row["text"]))
            yield row["document"], row["text"]


def _lengths(pieces: Iterable[tuple[int, str]]) -> Lengths:
    """The characters of each document."""
    lengths, last = array("q"), -1
    for document, text in pieces:
        if document != last:
            last = document
            lengths.append(0)
        lengths[-1] += len(text)
    return np.frombuffer(lengths, dtype=np.int64) if lengths else np.zeros(0, np.int64)
