"""What a run in MLflow tells of its result."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow_project import made_from, runs

from recurlm import config
from recurlm.report.results import gather
from recurlm.tracking import describe, mirror, store
from recurlm.tracking.client import connected


def test_a_run_tells_how_its_model_learned(logged: Path) -> None:
    run = runs(logged)["lstm"]
    with connected(store.find(logged)) as client:
        losses = [
            (metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "validation_loss")
        ]
    assert losses == [(5, 4.75), (10, 4.25), (15, 3.75)]
    assert run.data.metrics["best_validation_loss"] == 3.75
    assert run.data.metrics["best_step"] == 15
    assert run.data.metrics["validation_perplexity"] == pytest.approx(math.exp(3.75))
    assert run.data.metrics["train_loss"] == 4.5
    assert run.data.metrics["learning_rate"] == 0.01
    assert run.data.params["hidden_size"] == "8"
    assert run.data.params["train.seed"] == "7"
    assert run.data.params["fetch.source"] == "packaged"


def test_a_run_tells_how_good_and_how_proven_its_model_is(logged: Path) -> None:
    metrics = runs(logged)["lstm"].data.metrics
    assert metrics["test_bits_per_byte"] == 1.875
    assert metrics["proof_passed"] == 1
    assert metrics["proof_largest_logit_difference"] == 2.5e-6
    assert metrics["bundle_bytes"] == 12_345_678
    assert metrics["training_tokens_per_second"] == metrics["generation_tokens_per_second"] == 12346.6


def test_the_numbers_of_a_cloze_model_are_named_apart(logged: Path) -> None:
    found = runs(logged)
    cloze, causal = found["bilstm"].data.metrics, found["lstm"].data.metrics
    assert cloze["best_pseudo_validation_loss"] == 3.5
    assert cloze["test_pseudo_bits_per_byte"] == 1.75
    shared = cloze.keys() & causal.keys()
    assert not [name for name in shared if re.search("loss|perplexity|nats_per|bits_per", name)]


def test_a_run_tells_where_it_comes_from(logged: Path) -> None:
    run = runs(logged)["lstm"]
    expected = {
        "variant": "lstm",
        "corpus": "two <plays>",
        "tokenizer": "bpe 300",
        "protocol": "streamed",
        "dvc_stage": "train@lstm",
        "dvc_lock_model": "m-lstm.dir",
        "dvc_lock_bundle": "b-lstm.dir",
    }
    assert expected.items() <= run.data.tags.items()
    read = json.loads((logged / "data/corpus/manifest.json").read_bytes())["splits"]
    datasets = {used.tags[0].value: used.dataset for used in run.inputs.dataset_inputs}
    assert datasets.keys() == {"training", "validation", "testing"}
    assert read["train"]["sha256"].startswith(datasets["training"].digest)
    assert json.loads(datasets["testing"].profile)["sha256"] == read["test"]["sha256"]


def test_the_commit_and_what_differs_from_it_are_named(root: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a test", "-c", "user.email=test@localhost")
        return subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("add", "params.yaml", "dvc.lock")
    git("commit", "--quiet", "--message", "results")
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + "\n", encoding="utf-8")
    (root / "dvc.lock").unlink()
    shutil.rmtree(root / ".mlflow")
    results = gather(root, config.load(root / "params.yaml"))
    tags = describe.tags(root, results, results.variants[0])
    assert tags["git_commit"] == git("rev-parse", "HEAD").strip()
    assert tags["git_changed"] == "params.yaml"


def test_bundle_and_sample_lie_beside_the_run(logged: Path) -> None:
    run = runs(logged)["lstm"]
    files = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (files / "bundle/generator.onnx").read_bytes() == (
        logged / "data/onnx/lstm/fp32/generator.onnx"
    ).read_bytes()
    assert (files / "bundle/bundle.json").is_file()


def test_the_sample_is_logged_where_there_is_one(root: Path) -> None:
    made = made_from(root)
    (root / "data/report/samples/lstm.txt").write_text("KING.\nHa!\n", encoding="utf-8")
    mirror.log(root, store.find(root), made.runs)
    files = Path(runs(root)["lstm"].info.artifact_uri.removeprefix("file://"))
    assert (files / "sample/lstm.txt").read_text(encoding="utf-8") == "KING.\nHa!\n"


def test_the_logged_model_runs_and_knows_its_inputs(logged: Path) -> None:
    with connected(store.find(logged)) as client:
        run = runs(logged)["lstm"]
        models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
        assert [model.name for model in models] == ["lstm"]
        model = mlflow.pyfunc.load_model(models[0].model_uri)
    inputs = {spec.name: (spec.type, spec.shape) for spec in model.metadata.signature.inputs}
    assert inputs == {
        "prompt": (np.dtype("int64"), (-1, -1)),
        "max_new_tokens": (np.dtype("int64"), ()),
        "temperature": (np.dtype("float32"), (-1,)),
    }, "the state may be left out"
    answer = model.predict(
        {"prompt": np.array([[1, 2], [3, 4]]), "max_new_tokens": np.array(1), "temperature": np.ones(2, np.float32)}
    )
    assert answer["tokens"].tolist() == [[2, 3], [4, 5]]
