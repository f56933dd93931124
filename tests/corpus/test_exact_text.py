"""Every byte of a text file survives, whatever it holds, but for a byte order mark at the start."""

from __future__ import annotations

import gzip
import json
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from configs import fetch_config
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recurlm.config import Fetch
from recurlm.corpus import files
from recurlm.corpus.base import datasets
from recurlm.corpus.reader import decode, open_split
from recurlm.corpus.writer import write
from recurlm.errors import InputError

NASTY = "\ufefftabs\tCRLF\r\nlone\rform\x0cfeed\x0bNUL\0LS\u2028PS\u2029NEL\x85 naïve 日本 🎭e\u0301 no end"
some_text = st.text(st.one_of(st.characters(codec="utf-8"), st.sampled_from("\r\n\t\0\x0c\u2028\ufeff🎭")), min_size=1)


def explicit(folder: Path, pattern: str) -> Fetch:
    paths = {
        "path": str(folder / "train" / pattern),
        "validation_path": str(folder / "held" / pattern),
        "test_path": str(folder / "held" / pattern),
    }
    return fetch_config(source="files", files={"split": "explicit", **paths})


def save(path: Path, texts: list[str]) -> None:
    """Texts as the documents of one file, of the kind that the file's name says."""
    path.parent.mkdir(exist_ok=True)
    kind = path.name.removesuffix(".gz")
    if kind.endswith(".txt"):
        data = "".join(texts).encode("utf-8")
    elif kind.endswith(".jsonl"):
        data = "".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts).encode("utf-8")
    else:
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"text": texts}), sink)
        data = sink.getvalue().to_pybytes()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


@pytest.mark.parametrize("name", [f"a{kind}{gz}" for kind in (".txt", ".jsonl", ".parquet") for gz in ("", ".gz")])
@settings(max_examples=15, deadline=None)
@given(texts=st.lists(some_text, min_size=1, max_size=4))
@example(texts=[NASTY])
@example(texts=["\r", "\n", "\r\n"])
@example(texts=["\ufeff\ufeffa mark, and a character of the text"])
def test_text_comes_out_as_it_went_in(name: str, texts: list[str]) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        save(folder / "train" / name, texts)
        save(folder / "held" / name, [NASTY])
        source = files.source(explicit(folder, name))
        assert all(isinstance(part.documents, datasets.IterableDataset) for part in source.parts)
        documents = ["".join(texts).removeprefix("\ufeff")] if ".txt" in name else texts
        if not any(documents):
            return
        write(source, folder / "corpus")
        assert (folder / "corpus/train.txt").read_bytes() == "".join(documents).encode("utf-8")
        split = open_split(folder / "corpus", "train")
        assert ["".join(split.pieces(number, size=3)) for number in range(len(split))] == [
            text for text in documents if text
        ]


@settings(max_examples=50, deadline=None)
@given(text=some_text, size=st.integers(1, 7))
def test_characters_cut_by_a_chunk_are_joined_again(text: str, size: int) -> None:
    data = text.encode("utf-8")
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    assert "".join(decode(chunks, "here")) == text


@settings(max_examples=50, deadline=None)
@given(data=st.binary(min_size=1, max_size=40), size=st.integers(1, 7))
@example(data="é".encode()[:1], size=1)
def test_the_first_byte_that_is_not_utf8_is_named(data: bytes, size: int) -> None:
    chunks = [data[start : start + size] for start in range(0, len(data), size)]
    try:
        expected = data.decode("utf-8")
    except UnicodeDecodeError as error:
        with pytest.raises(InputError, match=rf"^here: not UTF-8 at byte offset {error.start} "):
            list(decode(chunks, "here"))
    else:
        assert "".join(decode(chunks, "here")) == expected


def test_offsets_say_where_documents_start(tmp_path: Path) -> None:
    save(tmp_path / "train" / "a.jsonl", ["één", "", "\r\n", "🎭"])
    save(tmp_path / "held" / "a.jsonl", ["x"])
    write(files.source(explicit(tmp_path, "a.jsonl")), tmp_path / "corpus")
    offsets = np.load(tmp_path / "corpus/train.offsets.npy")
    assert offsets.dtype == np.int64
    assert offsets.tolist() == [0, 5, 7, 11]  # a document without text is none
