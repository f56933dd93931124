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
"""Told the bytes of each piece of text that was written."""


def write(source: Source, folder: Path, progress: Progress = lambda _: None) -> dict[str, Any]:
    """Write the corpus, whole or not at all, and return its manifest.

    Raises:
        InputError: a text is not as it should be, or a split would be empty.
    """
    with whole_folder(folder) as partial, ExitStack() as files:
        splits = {name: _Split(partial, name, files) for name in SPLITS}
        for number, part in enumerate(source.parts):
            for name, document, text in _dealt(part):
                title = part.names[document] if part.names else None
                progress(splits[name].add((number, document), text, title))
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

    def add(self, document: object, text: str, title: str | None) -> int:
        """Append a piece of a document, and tell how many bytes it has."""
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
        return len(data)

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


def _dealt(part: Part) -> Iterator[tuple[str, int, str]]:
    """Every piece of a part with its split, cut in two where a run ends inside it."""
    if isinstance(part.deal, str):
        for row in part.documents:
            if row["text"]:
                yield part.deal, row["document"], row["text"]
        return
    runs = iter(part.deal(_lengths(part.documents)))
    split, end, position = "", 0, 0
    for row in part.documents:
        text = row["text"]
        while text:
            while position == end:
                split, end = next(runs)
            here = text[: end - position]
            yield split, row["document"], here
            position += len(here)
            text = text[len(here) :]


def _lengths(documents: Iterable[dict[str, Any]]) -> Lengths:
    """The characters of each document that has any: one reading of the whole source."""
    lengths, last = array("q"), -1
    for row in documents:
        if not row["text"]:
            continue
        if row["document"] != last:
            last = row["document"]
            lengths.append(0)
        lengths[-1] += len(row["text"])
    return np.frombuffer(lengths, dtype=np.int64) if lengths else np.zeros(0, np.int64)
