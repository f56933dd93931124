"""The files of the tokenize stage: what they hold, that they are checked, that memory stays flat meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import Texts

from recurlm.config import Tokenize
from recurlm.errors import InputError
from recurlm.tokens import encode
from recurlm.tokens.counts import Counts
from recurlm.tokens.encode import write_tokens
from recurlm.tokens.files import open_tokens
from recurlm.tokens.tokenizer import KINDS, learn_tokenizer, load_tokenizer

SOURCE = {"name": "a test", "licence": "MIT", "revision": None, "source": "files"}


SPLITS = {
    "train": Texts(["one two one\n", "", "two one <bos>\nthree one", "naïve"]),
    "validation": Texts(["one\n"]),
    "test": Texts(["one ÜÜ\nfour", "\t", ""]),
}


def write(folder: Path, kind: str = "bpe", splits: dict[str, Texts] = SPLITS, **values: Any) -> Path:
    write_tokens(folder, Tokenize(**({"kind": kind, "vocab_size": 2048, "lowercase": False} | values)), splits, SOURCE)
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_every_document_is_its_start_and_its_tokens(kind: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "tokens", kind)
    for split, texts in SPLITS.items():
        tokens = open_tokens(folder, split)
        tokenizer = load_tokenizer(folder / "tokenizer.json", tokens.manifest["tokenizer_sha256"])
        assert tokens.ids.dtype == np.uint16
        assert tokens.starts.dtype == np.int64
        assert tokens.starts[-1] == len(tokens.ids)
        for document, text in enumerate(texts):
            start, *ids = tokens.ids[tokens.starts[document] : tokens.starts[document + 1]]
            assert start == tokens.manifest["special"]["bos"]
            assert ids == tokenizer.encode(text).ids
        assert tokens.counts["tokens"] == len(tokens.ids) - len(texts)


def test_a_manifest_says_all_there_is_to_know(tmp_path: Path) -> None:
    folder = write(tmp_path / "tokens", "word", vocab_size=260)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    splits = manifest.pop("splits")
    assert len(manifest.pop("tokenizer_sha256")) == 64
    assert manifest == {
        "kind": "word",
        "vocab_size": 8,  # a spelled-out <bos> is no word of its own
        "lowercase": False,
        "dtype": "uint16",
        "special": {"bos": 0, "mask": 1, "unk": 2, "eol": 3},
        "corpus": {"name": "a test", "licence": "MIT", "revision": None},
    }
    assert {len(splits["test"].pop(key)) for key in ("sha256", "starts_sha256")} == {64}
    assert splits["test"] == {
        "documents": 3,
        "tokens": 4,
        "words": 3,
        "characters": 12,
        "bytes": 14,
        "unknown_tokens": 2,
        "out_of_vocabulary_words": 2,
    }


def test_char_counts_unknown_characters_and_the_words_that_hold_one(tmp_path: Path) -> None:
    counts = open_tokens(write(tmp_path / "tokens", "char"), "test").counts
    assert counts["unknown_tokens"] == len("ÜÜfu\t")
    assert counts["out_of_vocabulary_words"] == len(["ÜÜ", "four"])
    assert open_tokens(tmp_path / "tokens", "train").counts["unknown_tokens"] == 0


@given(st.lists(st.text("aÜ \n", max_size=5), max_size=6))
def test_a_word_in_two_pieces_counts_once(pieces: list[str]) -> None:
    tokenizer = learn_tokenizer(["a b\n"], Tokenize(kind="char", vocab_size=2048, lowercase=False))
    counts = Counts(tokenizer)
    counts.start_document()
    for piece in pieces:
        counts.add(piece, np.array(tokenizer.encode(piece).ids, np.uint16))
    words = "".join(pieces).split()
    assert counts.words == len(words)
    assert counts.out_of_vocabulary_words == sum("Ü" in word for word in words)


def test_a_large_vocabulary_takes_four_bytes_an_id(tmp_path: Path) -> None:
    words = " ".join(f"w{number}" for number in range(66_000))
    splits = {"train": Texts([words]), "validation": Texts(["w0"]), "test": Texts([])}
    folder = write(tmp_path / "tokens", "word", splits, vocab_size=70_000)
    tokens = open_tokens(folder, "train")
    assert tokens.manifest["vocab_size"] == 66_004
    assert tokens.ids.dtype == np.uint32
    assert sorted(tokens.ids[1:]) == list(range(4, 66_004))
    assert len(open_tokens(folder, "test").ids) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_text_gives_the_same_bytes(kind: str, tmp_path: Path) -> None:
    one, two = (write(tmp_path / name, kind) for name in ("one", "two"))
    for file in one.iterdir():
        assert file.read_bytes() == (two / file.name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_train_split_is_refused_and_leaves_nothing(kind: str, tmp_path: Path) -> None:
    for empty in (Texts([]), Texts(["", ""])):
        with pytest.raises(InputError, match="train split holds no"):
            write(tmp_path / "tokens", kind, {**SPLITS, "train": empty})
    assert list(tmp_path.iterdir()) == []


def test_an_error_while_text_is_read_reaches_the_person(tmp_path: Path) -> None:
    """The bpe trainer calls back from another language."""

    class Broken(Texts):
        def pieces(self, document: int) -> Iterator[str]:
            yield "some text and "
            raise InputError("data/corpus/train.txt: corrupted")

    with pytest.raises(InputError, match=r"train\.txt: corrupted"):
        write(tmp_path / "tokens", "bpe", {**SPLITS, "train": Broken(["one"])})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["train.bin", "train.starts.npy"])
def test_a_changed_file_is_refused(name: str, tmp_path: Path) -> None:
    folder = write(tmp_path / "tokens")
    content = bytearray((folder / name).read_bytes())
    content[-1] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(InputError, match=rf"{name}: corrupted"):
        open_tokens(folder, "train")
    (folder / name).unlink()
    with pytest.raises(InputError, match=rf"{name}: no such file"):
        open_tokens(folder, "train")


def test_a_missing_folder_or_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file"):
        open_tokens(tmp_path / "tokens", "train")
    with pytest.raises(InputError, match="did you mean 'validation'"):
        open_tokens(write(tmp_path / "tokens"), "valid")


MEASURE = """
import random, resource, sys
from pathlib import Path
from recurlm.config import Tokenize
from recurlm.tokens.encode import write_tokens

class Made:
    "A document of a given size, made while it is read, over a fixed set of words."
    def __init__(self, megabytes):
        self.megabytes = megabytes
    def __len__(self):
        return 1
    def pieces(self, document):
        draw = random.Random(1)
        words = ["".join(draw.choices("abcdefgh", k=draw.randint(1, 9))) for _ in range(1000)]
        text = "\\n".join(draw.choices(words, k=10600)) + "\\n"
        for _ in range(int(self.megabytes * 16)):
            yield text
    goes_on = False
    shards = property(lambda self: [self])
    def check(self):
        pass
    def documents(self):
        yield self.pieces(0)

folder, kind, megabytes = sys.argv[1:]
train, other = Made(float(megabytes)), Made(0.1)
section = Tokenize(kind=kind, vocab_size=300, lowercase=False)
write_tokens(Path(folder), section, {"train": train, "validation": other, "test": other},
             {"name": "", "licence": None, "revision": None})
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


# The trainer of bpe asks for 4 MB of text at a time.
@pytest.mark.parametrize(("kind", "megabytes"), [("char", (2, 4)), ("bpe", (4, 6)), ("word", (2, 4))])
def test_memory_does_not_grow_with_the_corpus(kind: str, megabytes: tuple[int, int], tmp_path: Path) -> None:
    def peak(size: int) -> int:
        command = [sys.executable, "-c", MEASURE, str(tmp_path / "tokens"), kind, str(size)]
        quiet = {"RAYON_NUM_THREADS": "1", "MALLOC_ARENA_MAX": "1"}  # threads make the measure jump by some MB
        return int(subprocess.run(command, capture_output=True, check=True, text=True, env=quiet).stdout)

    small, large = megabytes
    grown = (peak(large) - peak(small)) / 1024
    assert grown < (large - small) / 2, f"{grown:.1f} MB more for {large - small} MB more text"


def test_a_word_too_long_for_memory_is_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(encode, "LONGEST_WORD", 20_000)
    whole, longer = (SPLITS | {"test": Texts(["a" * count])} for count in (20_000, 20_001))
    write(tmp_path / "whole", "bpe", whole)
    with pytest.raises(
        InputError, match="document 0 has 20,001 characters without a space to cut at, and at most 20,000"
    ):
        write(tmp_path / "longer", "bpe", longer)
    write(tmp_path / "longer", "char", longer)
