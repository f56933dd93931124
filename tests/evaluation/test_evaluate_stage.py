"""pipelines/evaluate.py as a person runs it, on a tiny model and tiny tokens."""

from __future__ import annotations

import json
import math
import os
import resource
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
import torch
import yaml
from configs import model_config

from recurlm import model
from recurlm.storage import sha256_of, write_json

ROOT = Path(__file__).parents[2]
VOCABULARY = 12
METRICS = ["nats_per_token", "perplexity_per_token", "perplexity_per_word", "bits_per_byte", "bits_per_character"]
COUNTS = ["tokens", "words", "bytes", "characters", "out_of_vocabulary_rate"]


class Ended(NamedTuple):
    status: int
    says: str


Run = Callable[..., Ended]


def write_tokens(folder: Path) -> None:
    random = np.random.default_rng(1)
    splits = {}
    for split, lengths in {"validation": [70, 31], "test": [55]}.items():
        documents = [np.concatenate([[0], random.integers(1, VOCABULARY, length)]) for length in lengths]
        np.concatenate(documents).astype("<u2").tofile(folder / f"{split}.bin")
        np.save(folder / f"{split}.starts.npy", np.cumsum([0, *(len(document) for document in documents)]))
        tokens = sum(lengths)
        splits[split] = {
            "sha256": sha256_of(folder / f"{split}.bin"),
            "starts_sha256": sha256_of(folder / f"{split}.starts.npy"),
            "documents": len(lengths),
            "tokens": tokens,
            "words": tokens // 5,
            "characters": tokens,
            "bytes": tokens + 3,
            "unknown_tokens": 0,
            "out_of_vocabulary_words": 1,
        }
    write_json(folder / "manifest.json", {"vocab_size": VOCABULARY, "dtype": "uint16", "splits": splits})


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with params.yaml, tokens of random numbers, and two untrained models."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["evaluate"] = {"batch_size": 2, "window_tokens": 20, "context_tokens": 7}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    (tmp_path / "data/tokens").mkdir(parents=True)
    write_tokens(tmp_path / "data/tokens")
    for name in ("gru", "bilstm"):
        torch.manual_seed(1)
        config = model_config(name, embedding_size=8, hidden_size=8)
        (tmp_path / "data/models" / name).mkdir(parents=True)
        model.save(tmp_path / "data/models" / name, model.build(name, config, VOCABULARY), name, config)
    return tmp_path


@pytest.fixture
def evaluate(project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the script in the project's folder; what it ended with and wrote to stderr."""
    monkeypatch.chdir(project)
    Path("pipelines").symlink_to(ROOT / "pipelines")

    def run(*arguments: str) -> Ended:
        monkeypatch.setattr(sys, "argv", ["evaluate.py", *arguments])
        status = 0
        try:
            runpy.run_path("pipelines/evaluate.py", run_name="__main__")
        except SystemExit as stopped:
            status = int(stopped.code or 0)
        return Ended(status, capsys.readouterr().err)

    return run


@pytest.mark.parametrize(
    ("name", "objective", "protocol", "prefix"),
    [("gru", "causal", "streamed", ""), ("bilstm", "cloze", "cloze", "pseudo_")],
)
def test_every_split_is_scored_into_one_file_that_is_byte_identical_each_time(
    project: Path, evaluate: Run, name: str, objective: str, protocol: str, prefix: str
) -> None:
    first = evaluate(name)
    assert first.status == 0, first.says
    path = project / f"data/metrics/{name}.json"
    written = path.read_bytes()
    metrics = json.loads(written)
    assert list(metrics) == ["variant", "objective", "protocol", "parameters", "validation", "test"]
    assert (metrics["variant"], metrics["objective"], metrics["protocol"]) == (name, objective, protocol)
    assert metrics["parameters"] == model.count_parameters(model.load(project / "data/models" / name))
    for split, tokens in {"validation": 101, "test": 55}.items():
        assert list(metrics[split]) == [prefix + metric for metric in METRICS] + COUNTS
        assert metrics[split]["tokens"] == tokens
        # Untrained, on random tokens: about as good as a guess among all.
        assert metrics[split][f"{prefix}nats_per_token"] == pytest.approx(math.log(VOCABULARY), abs=0.5)
    assert evaluate(name).status == 0
    assert path.read_bytes() == written


def assert_refused(project: Path, ended: Ended, says: str) -> None:
    assert ended.status == 2
    assert ended.says.startswith("recurlm: ")
    assert ended.says.count("\n") == 1
    assert says in ended.says
    assert not (project / "data/metrics").exists()


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["grru"], "did you mean 'gru'?"),
        ([], "python pipelines/evaluate.py VARIANT"),
        (["gru", "lstm"], "python pipelines/evaluate.py VARIANT"),
        (["lstm"], "data/models/lstm/model.json: no such file"),  # never trained
    ],
)
def test_a_variant_that_cannot_be_evaluated_gets_one_line(
    project: Path, evaluate: Run, arguments: list[str], says: str
) -> None:
    assert_refused(project, evaluate(*arguments), says)


@pytest.mark.parametrize("file", ["data/tokens/validation.bin", "data/tokens/test.starts.npy"])
def test_a_corrupted_tokens_file_gets_one_line(project: Path, evaluate: Run, file: str) -> None:
    whole = (project / file).read_bytes()
    (project / file).write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert_refused(project, evaluate("gru"), f"{file}: corrupted")


def test_a_model_of_another_vocabulary_gets_one_line(project: Path, evaluate: Run) -> None:
    manifest = project / "data/tokens/manifest.json"
    write_json(manifest, json.loads(manifest.read_text()) | {"vocab_size": VOCABULARY + 1})
    assert_refused(project, evaluate("gru"), "another vocabulary")


def test_a_full_disk_ends_in_one_line_and_leaves_the_old_metrics(project: Path) -> None:
    (project / "data/metrics").mkdir()
    path = project / "data/metrics/gru.json"
    path.write_text("old")
    result = subprocess.run(
        [sys.executable, ROOT / "pipelines/evaluate.py", "gru"],
        cwd=project,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (400, 400)),
    )
    assert result.returncode == 2
    assert "recurlm: no room left to write" in result.stderr.splitlines()[-1]
    assert list(path.parent.iterdir()) == [path]
    assert path.read_text() == "old"
