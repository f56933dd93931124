"""Bad input and a full disk end a program with one line and status 2; a bug shows where it is."""

from __future__ import annotations

import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from recurlm.errors import InputError, exit_cleanly, nearest


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lsmt", "did you mean 'lstm'?"),
        ("bilst", "did you mean 'bilstm'?"),
        ("transformer", "known: bilstm, gru, lstm"),
        ("", "known: bilstm, gru, lstm"),
    ],
)
def test_the_nearest_name_is_offered_or_else_all_of_them(name: str, hint: str) -> None:
    assert nearest(name, ["lstm", "gru", "bilstm"]) == hint


def test_bad_input_ends_with_one_line_and_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise InputError("what is wrong,\n   where,\nand what to do")

    with pytest.raises(SystemExit) as stopped:
        exit_cleanly(main)
    assert stopped.value.code == 2
    captured = capsys.readouterr()
    assert captured.err == "recurlm: what is wrong, where, and what to do\n"
    assert captured.out == ""


@pytest.mark.parametrize("bug", [ValueError("a bug"), PermissionError(13, "not yours"), OSError("neither")])
def test_a_bug_keeps_its_traceback(bug: Exception) -> None:
    def main() -> None:
        raise bug

    with pytest.raises(type(bug)):
        exit_cleanly(main)


# Each way in which this project writes its outputs, half a megabyte at a time.
WRITERS = {
    "text": "partial.write_text('x' * 500_000)",
    "numpy, raw": "import numpy; numpy.zeros(500_000, numpy.uint8).tofile(partial)",
    "numpy, .npy": "import numpy; numpy.save(partial.open('wb'), numpy.zeros(500_000, numpy.uint8))",
    "JSON": "write_json(partial, list(range(100_000)))",
    "weights": """
import torch
from recurlm import model
from recurlm import config as settings
params = settings.load(Path("params.yaml"))
sizes = {"embedding_size": 200, "hidden_size": 200}
config = params.variant("gru").model_copy(update=sizes)
partial.mkdir()
model.save(partial, model.build("gru", config, 100), "gru", config)
""",
}
PROGRAM = """
import sys
from pathlib import Path
from recurlm.errors import exit_cleanly
from recurlm.storage import whole_file, whole_folder, write_json
def main():
    with whole_folder(Path(sys.argv[1])) as folder:
        (folder / "small.txt").write_text("fits")
        partial = folder / "large"
        exec(sys.argv[2])
exit_cleanly(main)
"""


def write_much(writer: str, target: Path, largest_file: int | None = None) -> subprocess.CompletedProcess[str]:
    def limit() -> None:
        if largest_file is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file))

    return subprocess.run(
        [sys.executable, "-c", PROGRAM, target, WRITERS[writer]], capture_output=True, text=True, preexec_fn=limit
    )


def assert_no_room(result: subprocess.CompletedProcess[str], target: Path) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("recurlm: no room left to write")
    assert result.stderr.count("\n") == 1
    assert list(target.parent.iterdir()) == [target]
    assert [path.name for path in target.iterdir()] == ["old.txt"]


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Path:
    """A file system of 128 KB, where this machine lets us have one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("only root may mount a small disk; the limit on a file's size stands in for it in the other test")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", disk], capture_output=True, text=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip(f"no small disk here ({mounted.stderr.strip()}); the limit on a file's size stands in for it")
    return disk


@pytest.mark.parametrize("writer", WRITERS)
def test_a_full_disk_ends_with_one_line_and_leaves_what_was_there(tiny_disk: Path, writer: str) -> None:
    try:
        target = tiny_disk / "made"
        target.mkdir()
        (target / "old.txt").write_text("old")
        assert_no_room(write_much(writer, target), target)
    finally:
        subprocess.run(["umount", tiny_disk], check=True)


@pytest.mark.parametrize("writer", WRITERS)
def test_a_limit_on_a_file_s_size_ends_with_one_line_and_leaves_what_was_there(tmp_path: Path, writer: str) -> None:
    target = tmp_path / "made"
    target.mkdir()
    (target / "old.txt").write_text("old")
    assert_no_room(write_much(writer, target, largest_file=100_000), target)


def test_a_folder_of_another_user_ends_with_one_line(tmp_path: Path) -> None:
    stranger = "import os\nif os.geteuid() == 0:\n    os.seteuid(65534)\n"  # root may write anywhere
    program = PROGRAM.replace("def main", f"{stranger}def main")
    tmp_path.chmod(0o555)
    try:
        command = [sys.executable, "-c", program, tmp_path / "made", WRITERS["text"]]
        result = subprocess.run(command, capture_output=True, text=True)
    finally:
        tmp_path.chmod(0o755)
    assert result.returncode == 2, result.stderr
    line = r"recurlm: .+: Permission denied: run it as a user who may read and write there\n"
    assert re.fullmatch(line, result.stderr), result.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_writers_succeed_where_there_is_room(tmp_path: Path) -> None:
    """So that the tests above fail for want of room and for nothing else."""
    for number, writer in enumerate(WRITERS):
        result = write_much(writer, tmp_path / str(number))
        assert result.returncode == 0, result.stderr
        assert (tmp_path / str(number) / "large").exists()
