"""Reading a corpus that was fetched."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from configs import CHECKOUT, fetch_config

from recurlm.corpus import files
from recurlm.corpus.reader import open_split
from recurlm.corpus.writer import write
from recurlm.errors import InputError


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    texts = ["één\r\n", "twee 🎭", "drie", "vier", "vijf"]
    for number, text in enumerate(texts):
        (tmp_path / f"{number}.txt").write_text(text, encoding="utf-8", newline="")
    params = fetch_config(files={"path": str(tmp_path / "*.txt"), "seed": 3})
    write(files.source(params), tmp_path / "corpus")
    return tmp_path / "corpus"


def test_documents_are_read_in_pieces_in_any_order(corpus: Path) -> None:
    split = open_split(corpus, "train")
    assert len(split) == 3
    whole = (corpus / "train.txt").read_bytes().decode("utf-8")
    assert "".join("".join(pieces) for shard in split.shards for pieces in shard.documents()) == whole
    for size in (1, 2, 5, 1 << 20):
        backwards = ["".join(split.pieces(document, size)) for document in reversed(range(len(split)))]
        assert "".join(reversed(backwards)) == whole


def test_a_piece_is_no_longer_than_asked_for(corpus: Path) -> None:
    split = open_split(corpus, "train")
    assert max(len(piece.encode()) for document in split.shards[0].documents(size=2) for piece in document) <= 2 + 3


@pytest.mark.parametrize("name", ["train.txt", "train.offsets.npy"])
def test_a_file_with_one_bit_changed_is_refused(corpus: Path, name: str) -> None:
    data = bytearray((corpus / name).read_bytes())
    data[-1] ^= 1
    (corpus / name).write_bytes(data)
    with pytest.raises(InputError, match=rf"{name}: corrupted"):
        open_split(corpus, "train")


def test_an_unknown_split_and_a_missing_corpus_are_named(corpus: Path) -> None:
    with pytest.raises(InputError, match="did you mean 'validation'"):
        open_split(corpus, "valid")
    with pytest.raises(InputError, match="no such file"):
        open_split(corpus.parent / "elsewhere", "train")


def test_the_manifest_is_at_hand(corpus: Path) -> None:
    split = open_split(corpus, "test")
    entry = split.manifest["splits"]["test"]
    assert split.sha256 == entry["sha256"]
    assert entry["bytes"] == split.offsets[-1] == (corpus / "test.txt").stat().st_size
    assert np.all(np.diff(split.offsets) > 0)


def test_reading_needs_no_hugging_face() -> None:
    check = "import sys, recurlm.corpus.reader; sys.exit('datasets' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=CHECKOUT).returncode == 0
