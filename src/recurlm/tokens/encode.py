"""The tokenize stage: learn a tokenizer from the train split, then write every split as ids, with flat memory.

A shard of text becomes a shard of ids. Shards are cut where no kind of tokenizer has a token on both sides, so that
processes encode them side by side, and their ids joined are those of the whole.
"""

from __future__ import annotations

import os
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from recurlm.config import Tokenize
from recurlm.errors import InputError
from recurlm.shards import Progress, code_sha256, each_once, joined, processes_for, shard_path
from recurlm.storage import WORK, sha256_of, sync, whole_file, whole_folder, write_json
from recurlm.tokens.counts import Counts
from recurlm.tokens.pieces import PIECE, safe_pieces
from recurlm.tokens.special import special_ids
from recurlm.tokens.tokenizer import KINDS, learn_tokenizer, load_tokenizer, tokenizer_of_model

BATCH = 1 << 18  # characters encoded in one call
LONGEST_WORD = 1 << 24  # characters; each takes some 200 bytes while it is encoded
LEARNED = 1 << 27  # bytes of text, at most, that bpe and word learn from: the distinct words of more would fill memory


class Shard(Protocol):
    """A file of text, as recurlm.corpus.reader opens it."""

    @property
    def goes_on(self) -> bool: ...

    def check(self) -> None: ...

    def documents(self) -> Iterator[Iterator[str]]: ...


class Documents(Protocol):
    """A split of a corpus, as recurlm.corpus.reader opens it."""

    def __len__(self) -> int: ...

    def pieces(self, document: int) -> Iterator[str]: ...


class ShardedDocuments(Documents, Protocol):
    """Documents in one file or several."""

    @property
    def shards(self) -> Sequence[Shard]: ...


def write_tokens(
    folder: Path,
    section: Tokenize,
    splits: Mapping[str, ShardedDocuments],
    corpus: Mapping[str, Any],
    progress: Progress = lambda size: None,
    init_from: Path | None = None,
    processes: int | None = 1,
) -> None:
    """Fill `folder` with tokenizer.json, the ids of every split and manifest.json.

    A run that was killed goes on shard by shard.

    Args:
        splits: one of them is called "train".
        corpus: what the manifest says about the text: name, licence, revision; and what else it depends on.
        progress: told the bytes of text that were read.
        init_from: a folder with an earlier model, whose tokenizer is taken in place of a new one.
        processes: at most so many; None: one a core. They change no byte.

    Raises:
        InputError: the train split holds nothing to learn from, or a parameter does not fit the kind.
    """
    kind = KINDS[section.kind]
    shards = [(split, number, shard) for split, texts in splits.items() for number, shard in enumerate(texts.shards)]
    workers = 1
    if len(shards) > len(splits):
        workers = processes_for(processes, len(shards))
        os.environ["RAYON_NUM_THREADS"] = str(workers)  # threads of `tokenizers`, in this process
    earlier = None if init_from is None else tokenizer_of_model(init_from, section)
    key = [section.model_dump(), corpus, earlier and earlier[1], code_sha256(Path(__file__).parent)]
    with whole_folder(folder, key) as partial:
        path = partial / "tokenizer.json"
        if not path.exists():
            tokenizer = (
                earlier[0] if earlier else learn_tokenizer(_text_of(splits["train"], section.kind, progress), section)
            )
            # The library's own `save` would report a full disk as an error without a number.
            with whole_file(path) as unfinished:
                unfinished.write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        tokenizer = load_tokenizer(path)
        dtype = np.dtype("<u2" if tokenizer.get_vocab_size() <= 1 << 16 else "<u4")
        tasks = [
            (shard, path, kind.cut, dtype.str, shard_path(partial, split, number, ".bin"))
            for split, number, shard in shards
        ]
        encoded = each_once("encode", _encode, tasks, partial / WORK, workers, progress)
        manifest = {
            "kind": section.kind,
            "vocab_size": tokenizer.get_vocab_size(),
            "lowercase": section.lowercase,
            "dtype": dtype.name,
            "special": special_ids(tokenizer),
            "tokenizer_sha256": sha256_of(path),
            "corpus": {key: corpus[key] for key in ("name", "licence", "revision")},
            "splits": {
                split: _gathered(
                    partial,
                    split,
                    [found for (owner, *_), found in zip(shards, encoded, strict=True) if owner == split],
                )
                for split in splits
            },
        }
        write_json(partial / "manifest.json", manifest | ({"init_from": earlier[1]} if earlier else {}))


def _text_of(train: ShardedDocuments, kind: str, progress: Progress) -> Iterator[str]:
    """What is learned from: for char all text, for others the first part of each shard where the text is large."""
    empty = True
    for shard in train.shards:
        left = LEARNED // len(train.shards)
        for document in shard.documents():
            for text in safe_pieces(document, KINDS[kind].cut):
                empty = False
                yield text
                size = len(text.encode())
                progress(size)
                left -= size
                if left <= 0 and kind != "char" and len(train.shards) > 1:
                    break
            else:
                continue
            break
    if empty:
        raise InputError("the train split holds no text: a tokenizer is learned from it, so give it at least a line")


def _encode(shard: Shard, tokenizer_path: Path, cut: str, dtype: str, path: Path, progress: Progress) -> dict[str, Any]:
    """Write the ids of a shard to `path`, `<bos>` first in each document, and into `WORK` where documents start."""
    shard.check()
    tokenizer = load_tokenizer(tokenizer_path)
    counts, starts = Counts(tokenizer), array("q")
    bos = np.array([special_ids(tokenizer)["bos"]], dtype).tobytes()
    with path.open("wb") as file:
        for batch in _batches(shard, cut):
            encodings = tokenizer.encode_batch_fast([text for _, text in batch], add_special_tokens=False)
            read = counts.bytes
            for (is_first, text), encoding in zip(batch, encodings, strict=True):
                if is_first:
                    starts.append(counts.ids)
                    counts.start_document()
                    file.write(bos)
                ids = np.array(encoding.ids, dtype)
                file.write(ids.tobytes())
                counts.add(text, ids)
            progress(counts.bytes - read)
    sync(path)
    np.save(_starts_path(path), np.frombuffer(starts, np.int64))
    return {"sha256": sha256_of(path), "ids": counts.ids, **counts.totals()}


def _starts_path(path: Path) -> Path:
    return path.parent / WORK / f"{path.stem}.npy"


def _gathered(folder: Path, split: str, shards: list[dict[str, Any]]) -> dict[str, Any]:
    """Where all documents of a split start, in a file; and its entry in the manifest."""
    ends = np.cumsum([0, *(shard["ids"] for shard in shards)])
    places = [shard_path(folder, split, number, ".bin") for number in range(len(shards))]
    starts = [np.load(_starts_path(place)) + begin for place, begin in zip(places, ends, strict=False)]
    starts_path = folder / f"{split}.starts.npy"
    np.save(starts_path, np.concatenate([*starts, ends[-1:]]).astype("<i8", copy=False))
    entry = joined([{"sha256": shard["sha256"], "ids": shard["ids"]} for shard in shards])
    totals = {name: sum(shard[name] for shard in shards) for name in shards[0] if name not in ("sha256", "ids")}
    more = {"shards": entry["shards"]} if "shards" in entry else {}
    return {"sha256": entry["sha256"], "starts_sha256": sha256_of(starts_path), **totals, **more}


def _batches(shard: Shard, cut: str) -> Iterator[list[tuple[bool, str]]]:
    """The pieces of all documents, each with whether its document begins, about `BATCH` characters at a time.

    A piece costs at least as much as a short text does, so that very many empty documents stay a bounded batch too.
    """
    batch: list[tuple[bool, str]] = []
    size = 0
    for number, document in enumerate(shard.documents()):
        for is_first, text in _marked(safe_pieces(document, cut)):
            if len(text) > LONGEST_WORD:
                raise InputError(
                    f"document {number} has {len(text):,} characters without a space to cut at, and at most "
                    f"{LONGEST_WORD:,} can be encoded at once: set tokenize.kind to 'char', or break them up"
                )
            batch.append((is_first and not (shard.goes_on and number == 0), text))
            size += max(len(text), PIECE // 256)
            if size >= BATCH:
                yield batch
                batch, size = [], 0
    if batch:
        yield batch


def _marked(pieces: Iterable[str]) -> Iterator[tuple[bool, str]]:
    """At least one piece for each document, an empty one where it has no text."""
    is_first = True
    for text in pieces:
        yield is_first, text
        is_first = False
    if is_first:
        yield True, ""
