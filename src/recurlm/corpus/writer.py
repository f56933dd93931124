"""From a source to `data/corpus/`: each split's text, where its documents start, and a manifest.

Processes read the source once, each another shard of it, and write its text as it comes. Then lengths are known, and
what was written is dealt out to the splits. Memory holds a piece for each process, and some 120 bytes a document.
"""

from __future__ import annotations

import hashlib
from array import array
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

from recurlm.corpus.base import GOES_ON, PIECE, SPLITS, Part, Runs, Source, datasets
from recurlm.corpus.reader import decode
from recurlm.errors import InputError
from recurlm.shards import SHARD, Progress, code_sha256, each_once, joined, processes_for, shard_path
from recurlm.storage import WORK, sha256_of, sync, whole_folder, write_json


def write(
    source: Source, folder: Path, progress: Progress = lambda _: None, processes: int | None = 1
) -> dict[str, Any]:
    """Write the corpus, whole or not at all, and return its manifest; a run that was killed goes on shard by shard.

    Args:
        progress: told the characters of what was read.
        processes: at most so many; None: one a core.

    Raises:
        InputError: a text is not as it should be, or a split would be empty.
    """
    key = [source.kind, source.name, source.revision, source.key, code_sha256(Path(__file__).parent)]
    with whole_folder(folder, key) as partial:
        work = partial / WORK
        tasks = [
            (part.documents.shard(part.documents.num_shards, shard), work / f"{number}.{shard}")
            for number, part in enumerate(source.parts)
            for shard in range(part.documents.num_shards)
        ]
        workers = processes_for(processes, len(tasks)) if len(tasks) > len(source.parts) else 1
        pending = iter(each_once("read", _read, tasks, work, workers, progress))
        jobs: list[tuple[Any, ...]] = []
        names: dict[str, list[str]] = {split: [] for split in SPLITS}
        for part in source.parts:
            texts = [Path(text) for _ in range(part.documents.num_shards) for text in next(pending)["texts"]]
            runs, shards = _dealt(source, part, texts)
            for name, split in zip(part.names, runs[0], strict=False):
                names[SPLITS[split]].append(name)
            jobs += [(text, *shard) for text, shard in zip(texts, shards, strict=True)]
        dealt = each_once("deal", _deal, jobs, work, workers, lambda _: None)
        manifest = {
            "source": source.kind,
            "name": source.name,
            "revision": source.revision,
            "licence": source.licence,
            "splits": {
                split: _gathered(
                    partial, split, [(Path(job[0]), shard[split]) for job, shard in zip(jobs, dealt, strict=True)]
                )
                | ({"names": names[split]} if names[split] else {})
                for split in SPLITS
            },
        }
        write_json(partial / "manifest.json", manifest)
    return manifest


class _Text:
    """A file of text as it comes from a source, while it grows."""

    def __init__(self, path: Path, goes_on: bool) -> None:
        self.path, self.goes_on = path, goes_on
        self.file = path.open("wb")
        self.lengths, self.sizes = array("q"), array("q")  # of documents: characters, bytes
        self.size = 0

    def add(self, text: str, begins: bool) -> None:
        if begins:
            self.lengths.append(0)
            self.sizes.append(0)
        data = text.encode("utf-8")
        self.file.write(data)
        self.lengths[-1] += len(text)
        self.sizes[-1] += len(data)
        self.size += len(data)

    def close(self) -> str:
        self.file.close()
        sync(self.path)
        lengths, sizes = (np.frombuffer(counts, np.int64) for counts in (self.lengths, self.sizes))
        np.savez(self.path.with_suffix(".npz"), lengths=lengths, sizes=sizes, goes_on=self.goes_on)
        return str(self.path)


def _read(documents: datasets.IterableDataset, base: Path, progress: Progress) -> dict[str, Any]:
    """Write a shard of the source to `base.0.txt` and, where it is much, further files, with their lengths."""
    text: _Text | None = None
    closed: list[str] = []
    last, unreported = None, 0
    for row in documents:
        piece, number = row["text"], row["document"]
        unreported += len(piece)
        if unreported >= PIECE:
            progress(unreported)
            unreported = 0
        if not piece:  # a document without text is none
            continue
        begins = number != last
        if text is not None and text.size >= 2 * SHARD:
            # A long document goes on in another file where no token of any kind lies on both sides.
            end = 0 if begins else _word_end(piece)
            if end is not None:
                if end:
                    text.add(piece[:end], False)
                closed.append(text.close())
                text, piece = None, piece[end:]
        if text is None:
            text = _Text(Path(f"{base}.{len(closed)}.txt"), goes_on=not begins or number == GOES_ON)
            begins = True
        text.add(piece, begins)
        last = number
    progress(unreported)
    if text is not None:
        closed.append(text.close())
    return {"texts": closed}


def _word_end(piece: str) -> int | None:
    places = ((piece.find(sign, 1), sign) for sign in " \n")
    return min((place for place, _ in places if place > 0 and not piece[place - 1].isspace()), default=None)


def _dealt(
    source: Source, part: Part, texts: list[Path]
) -> tuple[Runs, list[tuple[UInt8[np.ndarray, "runs"], Int64[np.ndarray, "runs"], int | None]]]:
    """The runs of a part; and for each of its texts those within it, with the split of a document that goes on."""
    notes = [np.load(text.with_suffix(".npz")) for text in texts]
    if not notes:
        raise InputError(f"{source.name}: empty: there is no text in it")
    lengths = np.concatenate([each["lengths"] for each in notes])
    begins = np.ones(len(lengths), bool)
    firsts = np.cumsum([0, *(len(each["lengths"]) for each in notes)])
    begins[[first for first, each in zip(firsts, notes, strict=False) if each["goes_on"]]] = False
    if isinstance(part.deal, str):
        runs = np.array([SPLITS.index(part.deal)], np.uint8), np.array([lengths.sum()])
    else:
        runs = part.deal(np.add.reduceat(lengths, np.flatnonzero(begins)))
    splits, ends = runs
    shards, begin = [], 0
    for each in notes:
        end = begin + int(each["lengths"].sum())
        first, last = np.searchsorted(ends, begin, side="right"), np.searchsorted(ends, end, side="left")
        before = int(splits[np.searchsorted(ends, begin, side="left")]) if each["goes_on"] else None
        inside = np.minimum(ends[first : last + 1], end) - begin
        shards.append((splits[first : last + 1], inside, before))
        begin = end
    return runs, shards


def _deal(
    text: Path,
    splits: UInt8[np.ndarray, "runs"],
    ends: Int64[np.ndarray, "runs"],
    before: int | None,
    progress: Progress,
) -> dict[str, Any]:
    """Write each split's part of a text, and where documents begin in it."""
    with np.load(text.with_suffix(".npz")) as found:
        lengths, bytes_ = (np.cumsum(found[name]) for name in ("lengths", "sizes"))
    cuts = _bytes_at(text, ends, lengths, bytes_)
    begins = np.unique(np.concatenate([[0], bytes_[:-1], cuts[:-1]]))
    owner = splits[np.searchsorted(cuts, begins, side="right")]
    sizes = np.diff(begins, append=bytes_[-1])
    written: dict[str, Any] = {}
    for number, split in enumerate(SPLITS):
        own = owner == number
        starts = np.cumsum(sizes[own]) - sizes[own]
        if own[0] and before == number:
            starts = starts[1:]
        np.save(_part_path(text, split).with_suffix(".npy"), starts)
        characters = int(np.diff(ends, prepend=0)[splits == number].sum())
        written[split] = {"characters": characters, "bytes": int(sizes[own].sum())}
    hashes = [hashlib.sha256() for _ in SPLITS]
    files = [_part_path(text, split).open("wb") for split in SPLITS]
    with text.open("rb") as file:
        changes = np.flatnonzero(np.diff(splits, append=255))
        for number, end in zip(splits[changes].tolist(), cuts[changes].tolist(), strict=True):
            while chunk := file.read(min(PIECE, end - file.tell())):
                files[number].write(chunk)
                hashes[number].update(chunk)
    for split, out, sha256 in zip(SPLITS, files, hashes, strict=True):
        out.close()
        sync(_part_path(text, split))
        written[split]["sha256"] = sha256.hexdigest()
    return written


def _part_path(text: Path, split: str) -> Path:
    return text.with_name(f"{text.stem}.{split}.txt")


def _bytes_at(
    text: Path,
    ends: Int64[np.ndarray, "runs"],
    lengths: Int64[np.ndarray, "documents"],
    bytes_: Int64[np.ndarray, "documents"],
) -> Int64[np.ndarray, "runs"]:
    """Where in a text's bytes these characters begin; `lengths` and `bytes_` say where documents end."""
    document = np.searchsorted(lengths, ends)
    cuts = bytes_[document]
    for number in np.flatnonzero(lengths[document] != ends):  # inside a document
        which = document[number]
        left = int(ends[number] - (lengths[which - 1] if which else 0))
        place = int(bytes_[which - 1]) if which else 0
        with text.open("rb") as file:
            file.seek(place)
            for piece in decode(iter(lambda: file.read(PIECE), b""), str(text)):
                place += len(piece[:left].encode("utf-8"))
                left -= len(piece[:left])
                if not left:
                    break
        cuts[number] = place
    return cuts


def _gathered(folder: Path, split: str, parts: list[tuple[Path, dict[str, Any]]]) -> dict[str, Any]:
    """Put a split's shards in their places, and give its entry in the manifest."""
    parts = [(text, part) for text, part in parts if part["bytes"]]
    if not parts:
        raise InputError(f"fetch: the {split} split would be empty: give it a larger share or more text to draw from")
    offsets, size = [], 0
    for number, (text, part) in enumerate(parts):
        place = shard_path(folder, split, number, ".txt")
        if not place.exists():  # in a run that was killed
            _part_path(text, split).replace(place)
        offsets.append(np.load(_part_path(text, split).with_suffix(".npy")) + size)
        size += part["bytes"]
    documents = np.concatenate([*offsets, [size]]).astype("<i8", copy=False)
    np.save(folder / f"{split}.offsets.npy", documents)
    shards = joined([{"sha256": part["sha256"], "bytes": part["bytes"]} for _, part in parts])
    return {
        "sha256": shards["sha256"],
        "offsets_sha256": sha256_of(folder / f"{split}.offsets.npy"),
        "documents": len(documents) - 1,
        "characters": sum(part["characters"] for _, part in parts),
        "bytes": size,
        **({"shards": shards["shards"]} if "shards" in shards else {}),
    }
