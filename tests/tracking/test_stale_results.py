"""Results of another run than the present one: named, and neither logged nor registered."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from configs import merged
from fabricated_results import write, write_lock, write_results
from mlflow_project import QUIET, aliases, messages, pipelines, versions

from recurlm import config
from recurlm.report.build import build
from recurlm.report.results import load_results
from recurlm.storage import read_json
from recurlm.tracking import store
from recurlm.tracking.sync import sync


def stale(root: Path) -> dict[str, str]:
    """Variant → why its results are stale."""
    results = load_results(root, config.load(root / "params.yaml"))
    return {result.name: result.stale for result in results.variants if result.stale}


def set_params(root: Path, changes: dict[str, object]) -> None:
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    (root / "params.yaml").write_text(yaml.safe_dump(merged(params, changes), sort_keys=False), encoding="utf-8")


def read_another_text(root: Path) -> None:
    """What `dvc exp run -S fetch.source=files … verify@rnn` leaves: another text, which only the rnn has read."""
    set_params(root, {"fetch": {"source": "files"}, "tokenize": {"kind": "char"}})
    write(root / "data/corpus/manifest.json", read_json(root / "data/corpus/manifest.json") | {"name": "other text"})
    tokens = read_json(root / "data/tokens/manifest.json")
    write(root / "data/tokens/manifest.json", tokens | {"kind": "char", "tokenizer_sha256": "another"})
    write_lock(root, ["rnn"])


def test_a_variant_that_never_read_the_present_text_is_left_out(root: Path) -> None:
    messages(root)
    before = {name: aliases(root, name) for name in versions(root)}
    first = {run.info.run_id for run in pipelines(root)}
    read_another_text(root)
    said = sync(root)
    why = "train@{} read another data/tokens than tokenize wrote last".format
    assert said[-2:] == [f"left {name} out, whose results are stale: {why(name)}" for name in ("lstm", "bilstm")]
    assert [line for line in said if line.startswith("logged")] == ["logged rnn"]
    (new,) = [run for run in pipelines(root) if run.info.run_id not in first]
    assert new.data.tags["variants"] == new.data.tags["best_variant"] == "rnn"
    assert new.data.metrics["best_validation_bits_per_byte"] == 2.0
    assert "lstm" not in new.data.tags["mlflow.note.content"]
    assert {name: aliases(root, name)["champion"] for name in before} == {
        name: held["champion"] for name, held in before.items()
    }
    assert versions(root)["recurlm-lstm"] == [("lstm", "fp32")]
    build(root)
    page = (root / "data/report/report.md").read_text(encoding="utf-8")
    assert f"lstm: stale, and left out of MLflow: {why('lstm')}" in page
    assert "rnn: stale" not in page


def test_sync_names_it_and_logs_nothing_of_it(root: Path) -> None:
    read_another_text(root)
    write_lock(root, [])
    command = [sys.executable, "-m", "recurlm.cli", "sync"]
    set_params(root, {"train": {"seed": 8}})
    said = subprocess.run(command, cwd=root, env=os.environ | QUIET, capture_output=True, text=True, check=True).stdout
    assert said.count("\n") == said.count("whose results are stale") == 3
    with store.find(root).connected() as client:
        assert client.get_experiment_by_name("recurlm") is None


def others(root: Path, name: str) -> None:
    """Another file of the same name."""
    path = root / name
    path.write_text(path.read_text(encoding="utf-8").replace("1", "2", 1), encoding="utf-8")


def retrain(root: Path) -> None:
    """What `dvc repro train@lstm` leaves: new weights, and all that was made of the old ones."""
    old = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"]
    (root / "data/models/lstm/model.safetensors").write_bytes(b"new weights")
    write_lock(root)
    lock = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))
    lock["stages"] |= {name: stage for name, stage in old.items() if name.endswith("@lstm") and "train" not in name}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "parameter": (lambda root: set_params(root, {"train": {"seed": 8}}), "train@lstm ran with another train.seed"),
    "nested": (
        lambda root: set_params(root, {"export": {"group_size": 64}}),
        "export@lstm ran with another export.group_size",
    ),
    "model": (retrain, "evaluate@lstm read another data/models/lstm than train@lstm wrote last"),
    "weights": (
        lambda root: (root / "data/models/lstm/model.safetensors").write_bytes(b"of nobody"),
        "data/models/lstm is not what train@lstm wrote",
    ),
    "metrics": (
        lambda root: others(root, "data/metrics/lstm.json"),
        "data/metrics/lstm.json is not what evaluate@lstm wrote",
    ),
    "bundle": (
        lambda root: (root / "data/onnx/lstm/fp32/generator.onnx").write_bytes(b"of nobody"),
        "data/onnx/lstm is not what verify@lstm wrote",
    ),
    "verification": (
        lambda root: others(root, "data/metrics/verification/lstm.json"),
        "its verification is not that of its fp32 bundle",
    ),
    "lock": (lambda root: (root / "dvc.lock").unlink(), "dvc.lock has no stage fetch"),
}


@pytest.mark.parametrize(("change", "why"), CASES.values(), ids=CASES)
def test_what_does_not_belong_together_is_stale(
    tmp_path: Path, fabricated: Path, change: Callable[[Path], object], why: str
) -> None:
    root = tmp_path / "project"
    shutil.copytree(fabricated, root)
    assert stale(root) == {}
    change(root)
    assert why in stale(root)["lstm"]


def test_numbers_that_dvc_writes_another_way_are_the_same(tmp_path: Path, fabricated: Path) -> None:
    root = tmp_path / "project"
    shutil.copytree(fabricated, root)
    text = (root / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(text.replace("nats_tolerance: 1.0e-05", "nats_tolerance: 1e-5"), encoding="utf-8")
    assert "nats_tolerance: 1e-5" in (root / "params.yaml").read_text(encoding="utf-8")
    assert stale(root) == {}


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("fabricated")
    write_results(root)
    return root
