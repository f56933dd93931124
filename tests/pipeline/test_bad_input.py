"""What a stage says about bad input: one line, exit status 2, and no output left behind."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_project import Project

Refuses = Callable[[subprocess.CompletedProcess[str], str], None]


def partial_files(project: Project) -> list[Path]:
    return sorted((project.folder / "data").rglob("*.partial"))


@pytest.mark.parametrize(
    ("changes", "stage", "says"),
    [
        ({"fetch": {"files": {"path": "nowhere/*.txt"}}}, "fetch.py", "nowhere/*.txt"),
        ({"fetch": {"source": "file"}}, "fetch.py", "did you mean 'files'?"),
        ({"tokenize": {"kind": "bpee"}}, "tokenize_corpus.py", "did you mean 'bpe'?"),
        ({"tokenize": {"vocabulary_size": 12}}, "tokenize_corpus.py", "tokenize.vocabulary_size"),
        ({"train": {"gradient_clp": 1.0}}, "train.py gru", "did you mean 'gradient_clip'?"),
        ({"train": {"batch_size": 0}}, "train.py gru", "train.batch_size"),
        ({"train": {"batch_size": 100_000}}, "train.py gru", "batch"),
        ({"variants": {"gru": {"nonlinearity": "relu"}}}, "train.py gru", "variants.gru.nonlinearity"),
        ({"variants": {"rnn": {"nonlinearity": "rely"}}}, "train.py rnn", "did you mean 'relu'?"),
        ({}, "train.py gruu", "did you mean 'gru'?"),
        ({}, "train.py", "variant"),
        ({}, "evaluate.py gruu", "did you mean 'gru'?"),
        ({}, "export.py gruu", "did you mean 'gru'?"),
        ({}, "verify.py gruu", "did you mean 'gru'?"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_misfit_in_the_params_is_named(
    restored: Project, refuses: Refuses, changes: dict[str, Any], stage: str, says: str
) -> None:
    before = restored.git("status", "--porcelain", "--ignored")
    restored.set_params(changes)
    result = restored.run("python", *f"pipelines/{stage}".split())
    refuses(result, says)
    restored.git("checkout", "--quiet", "params.yaml")
    assert restored.git("status", "--porcelain", "--ignored") == before


@pytest.fixture(scope="module")
def restored(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """One copy of the reproduced project for all of this file: each test puts back what it changed."""
    return reproduced.copy(tmp_path_factory.mktemp("bad_input"))


@pytest.mark.parametrize(
    ("damaged", "stage"),
    [
        ("data/corpus/train.txt", "tokenize_corpus.py"),
        ("data/tokens/train.bin", "train.py gru"),
        ("data/tokens/test.bin", "evaluate.py gru"),
        ("data/models/gru/model.safetensors", "evaluate.py gru"),
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
        ("fetch.py", "data/corpus"),
        ("tokenize_corpus.py", "data/tokens"),
        ("train.py gru", "data/models/gru"),
        ("evaluate.py gru", "data/metrics/gru.json"),
        ("export.py gru", "data/graphs/gru"),
        ("verify.py gru", "data/onnx/gru"),
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
