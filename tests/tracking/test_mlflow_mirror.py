"""The MLflow mirror, on a real SQLite store: each result once, whole, and back when deleted."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest
from fabricated_results import VARIANTS
from mlflow_project import messages, runs, track, versions

from recurlm.errors import InputError
from recurlm.storage import read_sealed_json, write_sealed_json
from recurlm.tracking import store
from recurlm.tracking.store import KEY, open_experiment
from recurlm.tracking.sync import Plan

PIPELINE = Path(__file__).parents[2] / "pipelines/track.py"
PIPELINE_NAME = "pipeline, bpe 300, 1 epoch"


def test_a_result_is_logged_once(root: Path) -> None:
    assert track(root) == list(VARIANTS)
    first = runs(root)
    assert track(root) == []
    assert {run.info.run_id for run in runs(root).values()} == {run.info.run_id for run in first.values()}


def test_what_was_deleted_in_the_ui_comes_back(root: Path) -> None:
    track(root)
    with store.find(root).connected() as client:
        client.delete_run(runs(root)["rnn"].info.run_id)
        assert track(root) == ["rnn"]
        client.delete_experiment(runs(root)["rnn"].info.experiment_id)
    track(root)
    assert runs(root).keys() == set(VARIANTS)


def test_a_run_that_was_killed_halfway_is_completed(root: Path) -> None:
    plan, place = Plan.of(root), store.find(root)
    (key,) = [result.key for result in plan.complete if result.name == "lstm"]
    with place.connected() as client:
        experiment = open_experiment(client, place, plan.experiment)
        half = client.create_run(experiment, tags={KEY: key}, run_name="lstm").info.run_id
        model = client.create_logged_model(experiment, "lstm", source_run_id=half).model_id
        assert track(root) == list(VARIANTS)
        assert model not in {found.model_id for found in client.search_logged_models([experiment])}
    assert runs(root)["lstm"].info.run_id == half
    assert runs(root).keys() == set(VARIANTS)


def test_a_store_whose_making_was_killed_is_made_anew(root: Path) -> None:
    database = root / ".mlflow/mlflow.db"
    whole = database.read_bytes()
    database.unlink()
    database.with_name("mlflow.db.partial").write_bytes(whole[: len(whole) // 2])
    assert track(root) == list(VARIANTS)
    assert runs(root).keys() == set(VARIANTS)
    assert [path.name for path in database.parent.glob("mlflow.db*")] == ["mlflow.db"]


def test_a_run_that_lost_its_files_gets_them_again(root: Path) -> None:
    track(root)
    shutil.rmtree(root / ".mlflow/artifacts" / runs(root)["rnn"].info.run_id)
    assert track(root) == ["rnn"]
    assert runs(root).keys() == set(VARIANTS)


def test_a_new_result_gets_a_new_run_and_the_old_one_stays(root: Path) -> None:
    track(root)
    old = runs(root)["rnn"].info.run_id
    metrics = root / "data/metrics/rnn.json"
    metrics.write_text(metrics.read_text(encoding="utf-8").replace("54.59", "45.59"), encoding="utf-8")
    assert track(root) == ["rnn"]
    with store.find(root).connected() as client:
        assert client.get_run(old).info.lifecycle_stage == "active"


def test_a_result_that_is_not_verified_is_not_logged(root: Path) -> None:
    (root / "data/metrics/verification/rnn.json").unlink()
    assert track(root) == ["lstm", "bilstm"]


def test_a_corrupted_bundle_is_not_logged(root: Path) -> None:
    (root / "data/onnx/rnn/fp32/generator.onnx").write_bytes(b"corrupted")
    with pytest.raises(InputError, match="corrupted"):
        track(root)
    assert runs(root) == {}


def test_a_bundle_whose_verification_failed_is_left_out(root: Path) -> None:
    path = root / "data/onnx/rnn/fp32/bundle.json"
    description = {key: value for key, value in read_sealed_json(path).items() if key != "seal"}
    write_sealed_json(path, description | {"verification": {**description["verification"], "verified": False}})
    assert any(line.startswith("left rnn out") for line in messages(root))
    assert "rnn" not in runs(root)
    assert "recurlm-rnn" not in versions(root)


def test_a_copied_checkout_writes_into_itself(logged: Path, tmp_path: Path) -> None:
    before = sorted((logged / ".mlflow").rglob("*"))
    shutil.copytree(logged, tmp_path / "copy")
    assert track(tmp_path / "copy") == list(VARIANTS)
    assert sorted((logged / ".mlflow").rglob("*")) == before
    for run in runs(tmp_path / "copy").values():
        assert Path(run.info.artifact_uri.removeprefix("file://")).is_relative_to(tmp_path / "copy")


def test_an_experiment_of_dvc_in_its_temporary_folder_is_logged_beside_the_others(tmp_path: Path) -> None:
    temporary = tmp_path / ".dvc/tmp/exps/standalone/tmp123"
    temporary.mkdir(parents=True)
    assert store.find(temporary) == store.find(tmp_path)


def test_a_deleted_store_comes_back_once_even_from_two_processes_at_once(root: Path) -> None:
    track(root)
    shutil.rmtree(root / ".mlflow")
    both = [
        subprocess.Popen([sys.executable, str(PIPELINE)], cwd=root, stderr=subprocess.PIPE, text=True) for _ in range(2)
    ]
    said = [process.communicate(timeout=300)[1] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    logged = [line for line in "".join(said).splitlines() if "logged" in line]
    assert sorted(logged) == sorted(f"track: logged {name}" for name in VARIANTS)
    with sqlite3.connect(root / ".mlflow/mlflow.db") as database:
        assert database.execute("select name, status from runs order by name").fetchall() == [
            (name, "FINISHED") for name in sorted([*VARIANTS, PIPELINE_NAME])
        ]
