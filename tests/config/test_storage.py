"""Files appear whole or not at all, whatever ends the program that writes them."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from recurlm.errors import InputError
from recurlm.storage import check_sha256, read_json, sha256_of, to_json, whole_file, whole_folder, write_json


def write_half(path: Path) -> None:
    path.write_text("half")
    raise InterruptedError


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_a_file_appears_when_its_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "a.txt"
    with whole_file(target) as partial:
        partial.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert names(tmp_path) == ["deep", "deep/a.txt"]


@pytest.mark.parametrize("old", [None, "old"])
def test_a_file_s_block_that_fails_leaves_what_was_there(tmp_path: Path, old: str | None) -> None:
    target = tmp_path / "a.txt"
    if old is not None:
        target.write_text(old)
    before = names(tmp_path)
    with pytest.raises(InterruptedError), whole_file(target) as partial:
        write_half(partial)
    assert names(tmp_path) == before
    assert old is None or target.read_text() == old


def test_a_folder_appears_when_its_block_ends_and_replaces_all_of_the_old(tmp_path: Path) -> None:
    target = tmp_path / "deep" / "made"
    for content in ("old", "new"):
        with whole_folder(target) as partial:
            assert names(partial) == []
            (partial / "sub").mkdir()
            (partial / "sub" / f"{content}.txt").write_text(content)
            assert not (target / "sub" / f"{content}.txt").exists()
    assert names(tmp_path) == ["deep", "deep/made", "deep/made/sub", "deep/made/sub/new.txt"]


@pytest.mark.parametrize("old", [False, True])
def test_a_folder_s_block_that_fails_leaves_what_was_there(tmp_path: Path, old: bool) -> None:
    target = tmp_path / "made"
    if old:
        target.mkdir()
        (target / "a.txt").write_text("old")
    before = names(tmp_path)
    with pytest.raises(InterruptedError), whole_folder(target) as partial:
        write_half(partial / "a.txt")
    assert names(tmp_path) == before
    assert not old or (target / "a.txt").read_text() == "old"


KILLED = """
import os, signal, sys
from pathlib import Path
from recurlm.storage import whole_file, whole_folder
with {kind}(Path(sys.argv[1])) as partial:
    (partial / "a.txt" if partial.is_dir() else partial).write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.parametrize("kind", ["whole_file", "whole_folder"])
def test_a_kill_leaves_nothing_at_the_place_and_the_next_run_sweeps_up(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "made"
    killed = subprocess.run([sys.executable, "-c", KILLED.format(kind=kind), target], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not target.exists()
    if kind == "whole_file":
        with whole_file(target) as partial:
            partial.write_text("whole")
        assert names(tmp_path) == ["made"]
    else:
        with whole_folder(target) as partial:
            (partial / "b.txt").write_text("whole")
        assert names(tmp_path) == ["made", "made/b.txt"]


def test_json_has_one_form(tmp_path: Path) -> None:
    value = {"b": 1, "a": ["naïve", 0.1, None]}
    write_json(tmp_path / "a.json", value)
    assert (tmp_path / "a.json").read_bytes() == to_json(value).encode("utf-8")
    assert to_json(value) == '{\n  "b": 1,\n  "a": [\n    "naïve",\n    0.1,\n    null\n  ]\n}\n'
    assert read_json(tmp_path / "a.json") == value


def test_a_number_that_is_none_never_reaches_a_json_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_what_is_not_json_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.json").write_bytes(content)
    with pytest.raises(InputError, match=r"a\.json: not a JSON file"):
        read_json(tmp_path / "a.json")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"a\.json: no such file"):
        read_json(tmp_path / "a.json")
    with pytest.raises(InputError, match=r"a\.bin: no such file"):
        check_sha256(tmp_path / "a.bin", "0" * 64)


def test_one_changed_bit_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    path.write_bytes(bytes(1000))
    expected = sha256_of(path)
    check_sha256(path, expected)
    path.write_bytes(bytes(999) + b"\x01")
    with pytest.raises(InputError, match=rf"a\.bin: corrupted \(sha256 .*expected {expected[:12]}…\): make it again"):
        check_sha256(path, expected)
