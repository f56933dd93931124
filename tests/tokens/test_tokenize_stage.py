"""The stage's script, from a corpus on the disk to tokens on the disk."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from configs import write_params

from recurlm.tokens.files import open_tokens

SCRIPT = Path(__file__).resolve().parents[2] / "pipelines" / "tokenize_corpus.py"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with params.yaml and data/corpus."""
    write_params(tmp_path, {"tokenize": {"kind": "bpe", "vocab_size": 300}})
    corpus = tmp_path / "data" / "corpus"
    corpus.mkdir(parents=True)
    splits = {}
    for split, texts in {"train": ["one two\r\n" * 300, "three"], "validation": ["one"], "test": ["two é"]}.items():
        documents = [text.encode() for text in texts]
        (corpus / f"{split}.txt").write_bytes(b"".join(documents))
        np.save(corpus / f"{split}.offsets.npy", np.cumsum([0, *map(len, documents)], dtype="<i8"))
        splits[split] = {
            "sha256": hashlib.sha256((corpus / f"{split}.txt").read_bytes()).hexdigest(),
            "offsets_sha256": hashlib.sha256((corpus / f"{split}.offsets.npy").read_bytes()).hexdigest(),
            "documents": len(texts),
            "characters": len("".join(texts)),
            "bytes": sum(map(len, documents)),
        }
    manifest = {"source": "files", "name": "a test", "revision": None, "licence": None, "splits": splits}
    (corpus / "manifest.json").write_text(json.dumps(manifest))
    return tmp_path


def run(folder: Path, largest_file: int = -1) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(SCRIPT)],
        cwd=folder,
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (largest_file, largest_file)),
    )


def assert_refused(result: subprocess.CompletedProcess[str], folder: Path, reason: str) -> None:
    assert result.returncode == 2, result.stderr
    assert result.stderr.startswith("recurlm: ")
    assert reason in result.stderr
    assert result.stderr.count("\n") == 1
    assert [path.name for path in (folder / "data").iterdir()] == ["corpus"]


def test_the_stage_counts_what_the_corpus_holds(project: Path) -> None:
    result = run(project)
    assert result.returncode == 0, result.stderr
    corpus = json.loads((project / "data/corpus/manifest.json").read_text())
    for split in ("train", "validation", "test"):
        counts = open_tokens(project / "data/tokens", split).counts
        for key in ("documents", "characters", "bytes"):
            assert counts[key] == corpus["splits"][split][key]


def test_a_missing_corpus_is_refused(project: Path) -> None:
    (project / "data/corpus/manifest.json").unlink()
    assert_refused(run(project), project, "data/corpus/manifest.json: no such file")


def test_a_changed_corpus_is_refused(project: Path) -> None:
    (project / "data/corpus/test.txt").write_text("two e")
    assert_refused(run(project), project, "data/corpus/test.txt: corrupted")


def test_a_full_disk_is_told_and_leaves_nothing(project: Path) -> None:
    assert_refused(run(project, largest_file=1000), project, "no room left")
