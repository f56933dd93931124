"""The MLflow mirror, on a real SQLite store and a real server: each result once, whole, and back when deleted."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import mlflow
import numpy as np
import pytest
from fabricated_results import VARIANTS, write_results
from mlflow.entities import Run

from recurlm import config
from recurlm.errors import InputError
from recurlm.report import fingerprint
from recurlm.report.build import build
from recurlm.report.fingerprint import MadeFrom
from recurlm.report.results import gather
from recurlm.tracking import describe, mirror, store
from recurlm.tracking.client import connected, open_experiment

PIPELINE = Path(__file__).parents[2] / "pipelines/report.py"
SLOW = {"mlflow", "numpy", "onnx", "onnxruntime", "pydantic", "torch", "vl_convert"}


@pytest.fixture(autouse=True)
def _own_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """MLflow writes the place of its store into the environment, where the next test would find it."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with its tables and nothing in them, which takes MLflow some seconds to make."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        with connected(store.Store(f"sqlite:///{path}", None, path.parent)):
            return path


@pytest.fixture
def root(tmp_path: Path, empty_store: Path) -> Path:
    """A project with results, and a store that nothing was logged in."""
    root = tmp_path / "project"
    (root / ".mlflow").mkdir(parents=True)
    shutil.copy(empty_store, root / ".mlflow/mlflow.db")
    write_results(root)
    return root


@pytest.fixture(scope="module")
def logged(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A project that was logged once, for tests that only read."""
    root = tmp_path_factory.mktemp("logged")
    (root / ".mlflow").mkdir()
    shutil.copy(empty_store, root / ".mlflow/mlflow.db")
    write_results(root)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "")
        assert report(root) == list(VARIANTS)
    return root


def report(root: Path) -> list[str]:
    """What the report stage does; the variants that it logged."""
    made = made_from(root)
    place = store.find(root)
    return mirror.log(root, place, made.runs) if place.missing(made.experiment, made.runs) else []


def made_from(root: Path) -> MadeFrom:
    return build(root, fingerprint.inputs_hash(root))


def runs(root: Path) -> dict[str, Run]:
    """The finished runs that are in the store, name → run; none is there twice, and none is unfinished."""
    with connected(store.find(root)) as client:
        experiment = client.get_experiment_by_name("recurlm")
        found = client.search_runs([experiment.experiment_id])
    assert all(run.info.status == "FINISHED" for run in found)
    names = [run.info.run_name for run in found]
    assert sorted(names) == sorted(set(names))
    return {run.info.run_name: run for run in found}


def test_a_result_is_logged_once(root: Path) -> None:
    assert report(root) == list(VARIANTS)
    first = runs(root)
    assert report(root) == []
    assert mirror.log(root, store.find(root), made_from(root).runs) == []
    assert {run.info.run_id for run in runs(root).values()} == {run.info.run_id for run in first.values()}


def test_what_was_deleted_in_the_ui_comes_back(root: Path) -> None:
    report(root)
    with connected(store.find(root)) as client:
        client.delete_run(runs(root)["rnn"].info.run_id)
        assert report(root) == ["rnn"]
        client.delete_experiment(runs(root)["rnn"].info.experiment_id)
    report(root)
    assert runs(root).keys() == set(VARIANTS)


def test_a_run_that_was_killed_halfway_is_replaced(root: Path) -> None:
    made, place = made_from(root), store.find(root)
    with connected(place) as client:
        experiment = open_experiment(client, place, made.experiment)
        half = client.create_run(experiment, tags={store.KEY: made.runs["lstm"]}, run_name="lstm").info.run_id
        model = client.create_logged_model(experiment, "lstm", source_run_id=half).model_id
        assert report(root) == list(VARIANTS)
        assert client.get_run(half).info.lifecycle_stage == "deleted"
        assert model not in {found.model_id for found in client.search_logged_models([experiment])}
    assert runs(root).keys() == set(VARIANTS)


def test_a_run_that_lost_its_files_is_replaced(root: Path) -> None:
    report(root)
    shutil.rmtree(root / ".mlflow/artifacts" / runs(root)["rnn"].info.run_id)
    assert report(root) == ["rnn"]
    assert runs(root).keys() == set(VARIANTS)


def test_a_new_result_gets_a_new_run_and_the_old_one_stays(root: Path) -> None:
    report(root)
    old = runs(root)["rnn"].info.run_id
    metrics = root / "data/metrics/rnn.json"
    metrics.write_text(metrics.read_text(encoding="utf-8").replace("54.59", "45.59"), encoding="utf-8")
    assert report(root) == ["rnn"]
    with connected(store.find(root)) as client:
        assert client.get_run(old).info.lifecycle_stage == "active"


def test_a_result_that_is_not_proven_is_not_logged(root: Path) -> None:
    (root / "data/metrics/proof/rnn.json").unlink()
    assert report(root) == ["lstm", "bilstm"]


def test_a_corrupted_bundle_is_not_logged(root: Path) -> None:
    (root / "data/onnx/rnn/generator.onnx").write_bytes(b"corrupted")
    with pytest.raises(InputError, match="corrupted"):
        report(root)
    assert runs(root) == {}


def test_a_copied_checkout_writes_into_itself(logged: Path, tmp_path: Path) -> None:
    before = sorted((logged / ".mlflow").rglob("*"))
    shutil.copytree(logged, tmp_path / "copy")
    assert report(tmp_path / "copy") == list(VARIANTS)
    assert sorted((logged / ".mlflow").rglob("*")) == before
    for run in runs(tmp_path / "copy").values():
        assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(tmp_path / "copy")


def test_an_experiment_of_dvc_in_its_temporary_folder_is_logged_beside_the_others(tmp_path: Path) -> None:
    temporary = tmp_path / ".dvc/tmp/exps/standalone/tmp123"
    temporary.mkdir(parents=True)
    assert store.find(temporary) == store.find(tmp_path)


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
    assert metrics["bundle_bytes"] == (logged / "data/onnx/lstm/generator.onnx").stat().st_size
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
    assert (files / "bundle/generator.onnx").read_bytes() == (logged / "data/onnx/lstm/generator.onnx").read_bytes()
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


def test_with_nothing_new_the_stage_imports_nothing_slow(logged: Path) -> None:
    made_from(logged)
    code = (
        f"import json, runpy, sys; runpy.run_path({str(PIPELINE)!r}, run_name='__main__'); "
        "print(json.dumps([name for name in sys.modules if '.' not in name]))"
    )
    result = subprocess.run([sys.executable, "-c", code], cwd=logged, capture_output=True, text=True, check=True)
    assert result.stderr == ""
    assert not SLOW & set(json.loads(result.stdout))


def test_a_deleted_store_comes_back_once_even_from_two_reports_at_once(root: Path) -> None:
    report(root)
    shutil.rmtree(root / ".mlflow")
    both = [
        subprocess.Popen([sys.executable, str(PIPELINE)], cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert sorted("".join(said).splitlines()) == sorted(f"report: logged {name} in MLflow" for name in VARIANTS)
    with sqlite3.connect(root / ".mlflow/mlflow.db") as database:
        assert database.execute("select name, status from runs order by name").fetchall() == [
            (name, "FINISHED") for name in sorted(VARIANTS)
        ]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[str]:
    """A tracking server of one's own, which keeps the files that it is sent."""
    folder = tmp_path_factory.mktemp("server")
    shutil.copy(empty_store, folder / "mlflow.db")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    places = ["--backend-store-uri", f"sqlite:///{folder}/mlflow.db", "--artifacts-destination", str(folder / "files")]
    log = (folder / "log").open("w")
    environment = os.environ | {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with subprocess.Popen([*command, *places], stdout=log, stderr=log, cwd=folder, env=environment) as process:
        try:
            wait_for(lambda: answers(f"http://127.0.0.1:{port}/health"), 120)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def wait_for(ready: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end
        time.sleep(0.2)


def answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=1):
            return True
    except OSError:
        return False


def test_a_server_gets_each_result_once_with_its_files(
    tmp_path: Path, server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_results(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server)
    assert report(tmp_path) == list(VARIANTS)
    assert report(tmp_path) == []
    run = runs(tmp_path)["lstm"]
    assert run.data.metrics["test_bits_per_byte"] == 1.875
    with connected(store.find(tmp_path)) as client:
        files = {file.path for file in client.list_artifacts(run.info.run_id, "bundle")}
    assert files == {"bundle/bundle.json", "bundle/generator.onnx"}
    assert not (tmp_path / ".mlflow/mlflow.db").exists()


@pytest.mark.parametrize(
    ("uri", "problem"),
    [
        ("http://somebody:secret@127.0.0.1:9", "http://127.0.0.1:9: out of reach"),
        ("sqlite:////dev/null/mlflow.db", "/dev/null"),
        ("carrierpigeon://loft", "carrierpigeon"),
    ],
)
def test_a_store_out_of_reach_is_one_line_and_costs_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uri: str, problem: str
) -> None:
    write_results(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=re.escape(problem)) as refused:
        report(tmp_path)
    assert "secret" not in str(refused.value)
    assert (tmp_path / "data/report/index.html").is_file()
