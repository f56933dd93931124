"""The tokenize stage: learn a tokenizer from the train split, then write every split as ids, with flat memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from tokenizers import Tokenizer

from recurlm.config import Tokenize
from recurlm.errors import InputError
from recurlm.storage import sha256_of, whole_folder, write_json
from recurlm.tokens.counts import Counts
from recurlm.tokens.pieces import PIECE, safe_pieces
from recurlm.tokens.special import special_ids
from recurlm.tokens.tokenizer import KINDS, learn_tokenizer, tokenizer_of_model

BATCH = 1 << 18  # characters encoded in one call
LONGEST_WORD = 1 << 24  # characters; each takes some 200 bytes while it is encoded

Progress = Callable[[str, int], None]  # what is being read, and how many more bytes of it have been


class Documents(Protocol):
    """A split of a corpus, as recurlm.corpus.reader opens it."""

    def __len__(self) -> int: ...

    def pieces(self, document: int) -> Iterator[str]: ...


def write_tokens(
    folder: Path,
    section: Tokenize,
    splits: Mapping[str, Documents],
    corpus: Mapping[str, Any],
    progress: Progress = lambda doing, size: None,
    init_from: Path | None = None,
) -> None:
    """Fill `folder` with tokenizer.json, the ids of every split and manifest.json.

    Args:
        splits: one of them is called "train".
        corpus: what the manifest says about the text: name, licence, revision.
        init_from: a folder with an earlier model, whose tokenizer is taken in place of a new one.

    Raises:
        InputError: the train split holds nothing to learn from, or a parameter does not fit the kind.
    """
    initial = {}
    if init_from is None:
        tokenizer = learn_tokenizer(_text_of(splits["train"], KINDS[section.kind].cut, progress), section)
    else:
        tokenizer, initial["init_from"] = tokenizer_of_model(init_from, section)
    with whole_folder(folder) as partial:
        # The library's own `save` would report a full disk as an error without a number.
        (partial / "tokenizer.json").write_text(tokenizer.to_str(pretty=True), encoding="utf-8")
        dtype = np.dtype("<u2" if tokenizer.get_vocab_size() <= 1 << 16 else "<u4")
        written = {
            split: _write_split(partial, split, documents, tokenizer, KINDS[section.kind].cut, dtype, progress)
            for split, documents in splits.items()
        }
        manifest = {
            "kind": section.kind,
            "vocab_size": tokenizer.get_vocab_size(),
            "lowercase": section.lowercase,
            "dtype": dtype.name,
            "special": special_ids(tokenizer),
            "tokenizer_sha256": sha256_of(partial / "tokenizer.json"),
            "corpus": {key: corpus[key] for key in ("name", "licence", "revision")},
            "splits": written,
        }
        manifest |= initial
        write_json(partial / "manifest.json", manifest)


def _text_of(train: Documents, cut: str, progress: Progress) -> Iterator[str]:
    empty = True
    for document in range(len(train)):
        for text in safe_pieces(train.pieces(document), cut):
            empty = False
            yield text
            progress("learning from train", len(text.encode()))
    if empty:
        raise InputError("the train split holds no text: a tokenizer is learned from it, so give it at least a line")


def _write_split(
    folder: Path, split: str, documents: Documents, tokenizer: Tokenizer, cut: str, dtype: np.dtype, progress: Progress
) -> dict[str, Any]:
    """Append each document, `<bos>` first, to one file of ids, and note in another where it starts."""
    counts = Counts(tokenizer)
    start = np.array([special_ids(tokenizer)["bos"]], dtype).tobytes()
    ids_path, starts_path = folder / f"{split}.bin", folder / f"{split}.starts.npy"
    with ids_path.open("wb") as ids_file, starts_path.open("wb") as starts_file:
        header = {"descr": "<i8", "fortran_order": False, "shape": (len(documents) + 1,)}
        np.lib.format.write_array_header_1_0(starts_file, header)
        for batch in _batches(documents, cut):
            encodings = tokenizer.encode_batch_fast([text for _, text in batch], add_special_tokens=False)
            for (is_first, text), encoding in zip(batch, encodings, strict=True):
                if is_first:
                    starts_file.write(counts.ids.to_bytes(8, "little"))
                    counts.start_document()
                    ids_file.write(start)
                ids = np.array(encoding.ids, dtype)
                ids_file.write(ids.tobytes())
                counts.add(text, ids)
            progress(f"encoding {split}", sum(len(text.encode()) for _, text in batch))
        starts_file.write(counts.ids.to_bytes(8, "little"))
    return {"sha256": sha256_of(ids_path), "starts_sha256": sha256_of(starts_path), **counts.totals()}


def _batches(documents: Documents, cut: str) -> Iterator[list[tuple[bool, str]]]:
    """The pieces of all documents, each with whether it is its document's first, about `BATCH` characters at a time.

    A piece costs at least as much as a short text does, so that very many empty documents stay a bounded batch too.
    """
    batch: list[tuple[bool, str]] = []
    size = 0
    for document in range(len(documents)):
        for is_first, text in _marked(safe_pieces(documents.pieces(document), cut)):
            if len(text) > LONGEST_WORD:
                raise InputError(
                    f"document {document} has {len(text):,} characters without a space to cut at, and at most "
                    f"{LONGEST_WORD:,} can be encoded at once: set tokenize.kind to 'char', or break them up"
                )
            batch.append((is_first, text))
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
