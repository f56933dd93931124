"""What a stage says about bad input: one line, exit status 2, and no output left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_project import Project

pytestmark = pytest.mark.xdist_group("project")

Refuses = Callable[[subprocess.CompletedProcess[str], str], None]


def partial_files(project: Project) -> list[Path]:
    return sorted((project.folder / "data").rglob("*.partial"))


@pytest.fixture(scope="module")
def restored(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One copy of the reproduced project for all of this file: each test puts back what it changed."""
    return reproduced.copy(tmp_path_factory.mktemp("bad_input"))


@pytest.mark.parametrize(
    ("changes", "stage", "says"),
    [
        ({"train": {"optimizer": {"max_gradnorm": 1.0}}}, "train.py gru", "did you mean 'max_grad_norm'?"),
        ({"train": {"data": {"batch_size": 0}}}, "train.py gru", "train.data.batch_size"),
        ({"train": {"data": {"batch_size": 100_000}}}, "train.py gru", "train.data.batch_size"),
        ({"variants": {"gru": {"muon_lrr": 0.1}}}, "train.py gru", "did you mean 'muon_lr'?"),
        ({}, "train.py gruu", "did you mean 'gru'?"),
        ({}, "train.py", "which variant?"),
        ({}, "export.py gruu", "did you mean 'gru'?"),
        ({}, "verify.py gruu", "did you mean 'gru'?"),
    ],
)
def test_a_misfit_is_named(restored: Project, refuses: Refuses, changes: dict[str, Any], stage: str, says: str) -> None:
    before = restored.git("status", "--porcelain", "--ignored")
    restored.set_params(changes)
    result = restored.run("python", *f"pipelines/{stage}".split())
    restored.git("checkout", "--quiet", "params.yaml")
    refuses(result, says)
    assert restored.git("status", "--porcelain", "--ignored") == before


def test_the_dag_stops_at_bad_input_with_its_line(project: Project) -> None:
    project.set_params({"fetch": {"files": {"path": "nowhere/*.txt"}}})
    result = project.run("dvc", "repro")
    assert result.returncode != 0
    assert len([line for line in result.stderr.splitlines() if line.startswith("recurlm: ")]) == 1
    assert "nowhere/*.txt" in result.stderr
    assert "Traceback" not in result.stderr
    assert not (project.folder / "data/corpus").exists()


@pytest.mark.parametrize(
    ("damaged", "stage"),
    [
        ("data/tokens/train.bin", "train.py gru"),
        ("data/models/gru/model.safetensors", "export.py gru"),
    ],
)
def test_a_damaged_file_is_named(restored: Project, refuses: Refuses, damaged: str, stage: str) -> None:
    path = restored.folder / damaged
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    try:
        refuses(restored.run("python", *f"pipelines/{stage}".split()), damaged)
    finally:
        path.write_bytes(whole)
    assert partial_files(restored) == []


@pytest.mark.parametrize(
    ("stage", "output"),
    [
        ("train.py gru", "data/models/gru"),
        ("export.py gru", "data/graphs/gru"),
        ("verify.py gru", "data/onnx/gru"),
        ("report.py", "data/report"),
    ],
)
def test_a_full_disk_ends_in_one_line_and_leaves_nothing_half_written(
    restored: Project, tmp_path: Path, stage: str, output: str
) -> None:
    path = restored.folder / output
    aside = path.rename(tmp_path / "aside")
    try:
        result = restored.run("python", *f"pipelines/{stage}".split(), largest_file=400)
        assert result.returncode == 2, result.stderr
        assert "Traceback" not in result.stderr
        last = result.stderr.splitlines()[-1]
        assert last.startswith("recurlm: ")
        assert "no room left" in last
        assert not path.exists()
        assert partial_files(restored) == []
    finally:
        aside.rename(path)
