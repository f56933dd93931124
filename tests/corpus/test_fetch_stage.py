"""The stage as a person runs it: what is on the disk and on the screen afterwards."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path


def test_the_default_needs_no_network_and_stays_in_its_folder(tmp_path: Path, fetch: Callable) -> None:
    no_way_out = {f"{scheme}_proxy": "http://127.0.0.1:9" for scheme in ("http", "https", "all")}
    result = fetch({}, no_way_out)
    assert result.returncode == 0, result.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == [".cache", "data", "params.yaml"]
    names = [f"{split}{end}" for split in ("test", "train", "validation") for end in (".offsets.npy", ".txt")]
    assert sorted(path.name for path in (tmp_path / "data/corpus").iterdir()) == ["manifest.json", *names]
    assert result.stdout == ""
    assert "train: 34 documents" in result.stderr


def test_a_bad_file_ends_in_one_line_and_the_old_corpus_stays(
    tmp_path: Path, fetch: Callable, refuses: Callable[[subprocess.CompletedProcess[str], str], None]
) -> None:
    section = {"source": "files", "files": {"path": "a.txt", "split": "position"}}
    (tmp_path / "a.txt").write_bytes(b"good text " * 20)
    assert fetch(section).returncode == 0
    before = (tmp_path / "data/corpus/manifest.json").read_bytes()
    (tmp_path / "a.txt").write_bytes(b"good text \xff" * 20)
    refuses(fetch(section), "a.txt: not UTF-8 at byte offset 10 (0xff)")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["corpus"]
    assert (tmp_path / "data/corpus/manifest.json").read_bytes() == before


def test_a_full_disk_ends_in_one_line_and_leaves_nothing(
    tmp_path: Path, fetch: Callable, refuses: Callable[[subprocess.CompletedProcess[str], str], None]
) -> None:
    refuses(fetch({}, largest_file=100_000), "no room left")
    assert list((tmp_path / "data").iterdir()) == []
