"""A person's own files: which are found, how they are split, and what is refused."""

from __future__ import annotations

import contextlib
import gzip
import io
import json
import os
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from configs import fetch_config

from recurlm.corpus import files
from recurlm.corpus.writer import write
from recurlm.errors import InputError


def fetch(folder: Path, **lines: Any) -> dict[str, Any]:
    """Fetch into `folder / "corpus"`, and return the manifest."""
    return write(files.source(fetch_config(source="files", files=lines)), folder / "corpus")


def text(folder: Path, split: str) -> str:
    return (folder / f"corpus/{split}.txt").read_bytes().decode("utf-8")


def parquet(columns: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file)
    return file.getvalue()


def test_files_are_read_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.txt", "a.txt", "c/d.jsonl", "Z.txt.gz"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / "b.txt").write_bytes(b"bbb")
    (tmp_path / "a.txt").write_bytes(b"aaa")
    (tmp_path / "Z.txt.gz").write_bytes(gzip.compress(b"ZZZ"))
    (tmp_path / "c/d.jsonl").write_bytes(b'{"text": "ddd"}\n')
    fetch(tmp_path, path=str(tmp_path / "**/*.*"), split="position", val_fraction=0.25, test_fraction=0.25)
    assert [text(tmp_path, split) for split in ("train", "validation", "test")] == ["ZZZaaa", "bbb", "ddd"]


def test_a_text_has_the_name_and_the_licence_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc " * 100)
    given = {"name": "My letters", "licence": "CC-BY-4.0"}
    manifest = fetch(tmp_path, path=str(tmp_path / "a.txt"), split="position", **given)
    assert {key: manifest[key] for key in given} == given


def test_documents_of_every_kind_are_dealt_whole(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_bytes(b"one\r\n")
    (tmp_path / "2.jsonl").write_bytes(b'{"body": "two"}\n\n{"body": "three\\n"}\n')
    (tmp_path / "3.parquet").write_bytes(parquet({"body": ["four", "five"], "other": [1, 2]}))
    manifest = fetch(tmp_path, path=str(tmp_path / "[0-9].*"), field="body", val_fraction=0.2, test_fraction=0.4)
    assert [split["documents"] for split in manifest["splits"].values()] == [2, 1, 2]
    together = "".join(text(tmp_path, split) for split in ("train", "validation", "test"))
    for document in ("one\r\n", "two", "three\n", "four", "five"):
        assert together.count(document) == 1
    assert sum(split["characters"] for split in manifest["splits"].values()) == len(together)


def test_by_position_documents_are_cut_at_the_very_character(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("é" * 70, encoding="utf-8")
    (tmp_path / "b.txt").write_text("🎭" * 30, encoding="utf-8")
    manifest = fetch(tmp_path, path=str(tmp_path / "?.txt"), split="position", val_fraction=0.1, test_fraction=0.2)
    assert [text(tmp_path, split) for split in ("train", "validation", "test")] == ["é" * 70, "🎭" * 10, "🎭" * 20]
    assert [split["documents"] for split in manifest["splits"].values()] == [1, 1, 1]


def test_a_path_may_hold_the_marks_of_a_glob(tmp_path: Path) -> None:
    (tmp_path / "my [text].txt").write_bytes(b"0123456789")
    fetch(tmp_path, path=str(tmp_path / "my [text].txt"), split="position", val_fraction=0.1, test_fraction=0.1)
    assert text(tmp_path, "train") == "01234567"


def test_where_the_files_lie_is_no_part_of_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifests = []
    for home in ("here", "there"):
        folder = tmp_path / home
        folder.mkdir()
        (folder / "a.txt").write_bytes(b"0123456789" * 10)
        manifests.append(fetch(folder, path=str(folder / "a.txt"), split="position"))
    assert manifests[0] == manifests[1]
    monkeypatch.chdir(tmp_path / "here")
    assert fetch(tmp_path / "here", path="a.txt", split="position")["name"] == "a.txt"


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "an empty file": ("a.txt", b"", "a.txt: empty"),
    "an empty gzip file": ("a.txt.gz", gzip.compress(b""), "a.txt.gz: empty"),
    "a file without rows": ("a.jsonl", b"\n\n", "a.jsonl: empty"),
    "a parquet file without rows": ("a.parquet", parquet({"text": pa.array([], pa.string())}), "a.parquet: empty"),
    "latin-1": ("a.txt", "naïve".encode("latin-1"), "a.txt: not UTF-8 at byte offset 2 (0xef)"),
    "utf-16": ("a.txt", "naive".encode("utf-16"), "a.txt: not UTF-8 at byte offset 0 (0xff)"),
    "a character cut short": ("a.txt", "naï".encode()[:-1], "a.txt: not UTF-8 at byte offset 2"),
    "latin-1 in the second line": ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', "byte offset 24"),
    "broken JSON": ("a.jsonl", b'{"text": "a"}\n{"text": \n', "a.jsonl: line 2: not JSON"),
    "no object": ("a.jsonl", b"[1]\n", "a.jsonl: line 1: holds no fields"),
    "another field": ("a.jsonl", b'{"texts": "a"}\n', "a.jsonl: line 1: no field 'text': did you mean 'texts'?"),
    "a number": ("a.jsonl", b'{"text": 5}\n', "a.jsonl: line 1: 'text' holds int, not text"),
    "half a character": ("a.jsonl", b'{"text": "ab\\ud800"}\n', "half a surrogate pair at character 2"),
    "another column": ("a.parquet", parquet({"txt": ["a"]}), "a.parquet: no column 'text': did you mean 'txt'?"),
    "a missing value": ("a.parquet", parquet({"text": ["a", None]}), "a.parquet: row 2: 'text' holds nothing"),
    "a mark without text": ("a.txt", b"\xef\xbb\xbf", "a.txt: empty"),
    "deeply nested JSON": (
        "a.jsonl",
        b'{"text": "a"}\n{"text": "b", "tree": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n",
        "a.jsonl: line 2: JSON that is nested too deeply",
    ),
    "an integer of 5,000 digits": (
        "a.jsonl",
        b'{"text": "a", "number": ' + b"9" * 5000 + b"}\n",
        "a.jsonl: line 1: holds an integer of too many digits",
    ),
    "no parquet": ("a.parquet", b"PAR1 but not really", "a.parquet: not a whole parquet file"),
    "no gzip": ("a.txt.gz", b"plain", "a.txt.gz: not a whole gzip file"),
    "half a gzip": ("a.txt.gz", gzip.compress(b"text" * 100)[:-9], "a.txt.gz: not a whole gzip file"),
    "half a gzip of parquet": ("a.parquet.gz", gzip.compress(b"text" * 100)[:-9], "not a whole gzip file"),
    "another kind": ("a.docx", b"PK", "a.docx: '.docx' is no kind of file that can be read: .txt, .jsonl, .parquet"),
}


@pytest.mark.parametrize(("name", "data", "complaint"), BAD_FILES.values(), ids=BAD_FILES.keys())
def test_a_bad_file_is_named_with_what_is_wrong_and_leaves_nothing(
    tmp_path: Path, name: str, data: bytes, complaint: str
) -> None:
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError) as caught:
        fetch(tmp_path, path=str(tmp_path / name), split="position")
    assert complaint in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_path_that_leads_nowhere_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere/\*\.txt: no such file"):
        fetch(tmp_path, path=str(tmp_path / "nowhere/*.txt"))
    with pytest.raises(InputError, match="a folder: name its files"):
        fetch(tmp_path, path=str(tmp_path))


@pytest.mark.parametrize("documents", [1, 2])
def test_too_few_documents_to_draw_from_are_split_by_position_and_it_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], documents: int
) -> None:
    for number in range(documents):
        (tmp_path / f"{number}.txt").write_bytes(b"x" * (20 // documents))
    fetch(tmp_path, path=str(tmp_path / "*.txt"), split="documents", val_fraction=0.25, test_fraction=0.25)
    assert [len(text(tmp_path, split)) for split in ("train", "validation", "test")] == [10, 5, 5]
    assert capsys.readouterr().err == (
        f"fetch: {documents} document(s) cannot fill three splits: split by position, as with fetch.files.split: "
        "position; the first 50% is trained on\n"
    )


@pytest.mark.parametrize("held_out", ["valid.txt", "test.txt", "../text/test.txt", "link.txt"])
def test_a_held_out_file_that_is_trained_on_too_is_named(tmp_path: Path, held_out: str) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for name in ("train", "valid", "test"):
        (folder / f"{name}.txt").write_text(f"{name} text", encoding="utf-8")
    (tmp_path / "link.txt").symlink_to(folder / "test.txt")
    (tmp_path / "apart.txt").write_text("apart", encoding="utf-8")
    held_out = str(folder / held_out) if held_out != "link.txt" else str(tmp_path / held_out)
    split = "validation" if "valid" in held_out else "test"
    paths = {"validation_path": str(tmp_path / "apart.txt"), "test_path": str(tmp_path / "apart.txt")}
    with pytest.raises(InputError) as caught:
        fetch(tmp_path, split="explicit", path=str(folder / "*.txt"), **(paths | {f"{split}_path": held_out}))
    trained = folder / f"{'valid' if split == 'validation' else 'test'}.txt"
    assert f"params.yaml: fetch.files.path: {trained} is a file of {split}_path too: " in str(caught.value)
    manifest = fetch(tmp_path, split="explicit", path=str(folder / "train.txt"), **paths)
    assert [manifest["splits"][name]["bytes"] for name in ("train", "validation", "test")] == [10, 5, 5]


def test_a_file_that_a_glob_finds_twice_is_read_once(tmp_path: Path) -> None:
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/c.txt").write_bytes(b"0123456789")
    fetch(tmp_path, path=str(tmp_path / "**/**/**/*.txt"), split="position", val_fraction=0.1, test_fraction=0.1)
    assert [text(tmp_path, split) for split in ("train", "validation", "test")] == ["01234567", "8", "9"]


def test_an_empty_file_of_a_glob_is_skipped_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, data in {"a.txt": b"", "b.txt": b"0123456789", "c.txt.gz": gzip.compress(b"")}.items():
        (tmp_path / name).write_bytes(data)
    fetch(tmp_path, path=str(tmp_path / "?.*"), split="position", val_fraction=0.1, test_fraction=0.1)
    assert text(tmp_path, "train") == "01234567"
    skipped = [f"fetch: {tmp_path / name}: empty: skipped\n" for name in ("a.txt", "c.txt.gz")]
    assert capsys.readouterr().err == "".join(skipped)
    (tmp_path / "b.txt").write_bytes(b"")
    with pytest.raises(InputError, match=r"\?\.\*: empty: there is no text in it"):
        fetch(tmp_path, path=str(tmp_path / "?.*"), split="position")


def test_a_dangling_link_and_a_pipe_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"0123456789")
    (tmp_path / "b.txt").symlink_to("nowhere.txt")
    with pytest.raises(InputError, match=r"b\.txt: a link to nowhere\.txt, which does not exist"):
        fetch(tmp_path, path=str(tmp_path / "*.txt"), split="position")
    (tmp_path / "b.txt").unlink()
    os.mkfifo(tmp_path / "c.txt")
    for pattern in ("*.txt", "c.txt"):
        with pytest.raises(InputError, match=r"c\.txt: no file that can be read twice \(a pipe"):
            fetch(tmp_path, path=str(tmp_path / pattern), split="position")


@pytest.mark.skipif(sys.platform == "darwin", reason="its file system has names in UTF-8 only")
@pytest.mark.parametrize("pattern", ["*.txt", "caf\udce9.txt"])
def test_a_file_whose_name_is_not_utf8_is_to_be_renamed(tmp_path: Path, pattern: str) -> None:
    Path(os.fsdecode(bytes(tmp_path) + b"/caf\xe9.txt")).write_bytes(b"0123456789")
    with pytest.raises(InputError) as caught:
        fetch(tmp_path, path=str(tmp_path / pattern), split="position")
    assert str(caught.value) == f"{tmp_path}/caf\\xe9.txt: the name of this file is not UTF-8: rename it"


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbf0123456789")
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"\xef\xbb\xbfabcdefghij"))
    fetch(tmp_path, path=str(tmp_path / "?.txt*"), split="position", val_fraction=0.1, test_fraction=0.1)
    assert "".join(text(tmp_path, split) for split in ("train", "validation", "test")) == "0123456789abcdefghij"


def test_a_split_with_nothing_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"abc")
    with pytest.raises(InputError, match="the validation split would be empty"):
        fetch(tmp_path, path=str(tmp_path / "a.txt"), split="position", val_fraction=0.01, test_fraction=0.5)
    assert not (tmp_path / "corpus").exists()


def test_memory_stays_flat_however_large_a_file_is(tmp_path: Path) -> None:
    line = "To be, or not to be: that is the question.\n" * 100
    with (tmp_path / "a.txt").open("w", encoding="utf-8") as file:
        for _ in range(10_000):
            file.write(line)
    tracemalloc.start()
    try:
        fetch(tmp_path, path=str(tmp_path / "a.txt"), split="position")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert (tmp_path / "a.txt").stat().st_size > 40_000_000
    assert peak < 16_000_000


def test_a_parquet_is_read_a_piece_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[int] = []

    class Counted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            data = super().read(size)
            reads.append(len(data))
            return data

    texts = [os.urandom(500).hex() for _ in range(8000)]
    data = parquet({"text": texts})
    (tmp_path / "a.parquet").write_bytes(data)
    monkeypatch.setattr(files, "_opened", lambda _: contextlib.nullcontext(Counted(data)))
    fetch(tmp_path, path=str(tmp_path / "a.parquet"), split="position")
    assert "".join(text(tmp_path, split) for split in ("train", "validation", "test")) == "".join(texts)
    assert len(data) > 5_000_000
    assert max(reads) < 2_500_000


def test_a_field_of_jsonl_keeps_escaped_line_ends(tmp_path: Path) -> None:
    texts = ["a\r\nb", "\u2028", "tab\t"]
    (tmp_path / "a.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(json.dumps({"text": t}) for t in texts).encode())
    fetch(tmp_path, path=str(tmp_path / "a.jsonl"), split="documents")
    assert sorted(text(tmp_path, split) for split in ("train", "validation", "test")) == sorted(texts)
