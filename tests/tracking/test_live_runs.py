"""A training in MLflow while it goes on: in one run, however often it is killed, and never at the training's cost."""

from __future__ import annotations

import fcntl
import json
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from mlflow.entities import Run
from mlflow_project import runs, track, wait_for

from recurlm.tracking import store
from recurlm.tracking.describe import PARENT
from recurlm.tracking.live import Follower, follower
from recurlm.tracking.sync import sync
from recurlm.training.journal import Journal, read_journal
from recurlm.training.loop import StoppedError
from recurlm.training.state import EvalPoint, LogPoint

SECONDS = 120  # for another process to import MLflow on a busy machine


@pytest.fixture(autouse=True)
def _where(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    monkeypatch.setattr(
        "recurlm.tracking.live.PATIENCE", float(SECONDS)
    )  # what is logged depends on no machine's speed


def begin(root: Path) -> Journal:
    """The journal of a training of the lstm, new or gone on with."""
    return Journal(root / "data/checkpoints/lstm.jsonl", "a key", "lstm")


def tell(journal: Journal, step: int) -> None:
    journal.write(step, {"train_loss": 7 - step / 100, "tokens_per_second": 4000.0 + step})
    journal.sample(LogPoint(step, step * 100, 7.0, None, 0.01))


def end(root: Path, journal: Journal) -> None:
    """What a training leaves when it is through."""
    journal.close(root / "data/timings/train-lstm.jsonl")
    timings = root / "data/timings/train-lstm.json"
    timings.write_text(json.dumps({**json.loads(timings.read_bytes()), "run_key": "a key"}), encoding="utf-8")


def live(root: Path) -> Run | None:
    """The only run in the store."""
    with store.find(root).connected() as client:
        experiment = client.get_experiment_by_name("recurlm")
        found = client.search_runs([experiment.experiment_id]) if experiment else []
    assert len(found) <= 1
    return found[0] if found else None


def shown(root: Path, status: str, step: int) -> Callable[[], bool]:
    """Whether the run has that status and this step's loss."""
    return lambda: (
        (run := live(root)) is not None
        and run.info.status == status
        and run.data.metrics.get("train_loss") == 7 - step / 100
    )


def content(uri: str | None, root: Path) -> dict[str, Any]:
    """All that a store holds of the lstm's run, but for ids and what follows from them."""
    with store.find(root, uri).connected() as client:
        experiment = client.get_experiment_by_name("recurlm")
        (run,) = client.search_runs([experiment.experiment_id], "tags.variant = 'lstm'")
        history = {
            name: {(each.timestamp, each.step, each.value) for each in client.get_metric_history(run.info.run_id, name)}
            for name in run.data.metrics
        }
        files = {file.path for file in client.list_artifacts(run.info.run_id)}
    tags = {name: value for name, value in run.data.tags.items() if name not in {PARENT, "mlflow.user"}}
    times = (run.info.start_time, run.info.end_time)
    return {
        "name": run.info.run_name,
        "status": run.info.status,
        "times": times,
        "params": run.data.params,
        "metrics": history,
        "tags": tags,
        "files": files,
        "data": sorted(used.dataset.digest for used in run.inputs.dataset_inputs),
        "models": len(run.outputs.model_outputs),
    }


def test_a_killed_and_resumed_training_is_one_run_which_in_the_end_is_what_the_mirror_alone_makes(
    root: Path, tmp_path: Path, empty_store: Path
) -> None:
    journal, follow = begin(root), follower("recurlm")
    tell(journal, 1)

    def train_until_stopped() -> None:
        with follow(journal.path):
            wait_for(shown(root, "RUNNING", 1), SECONDS)
            tell(journal, 2)
            wait_for(shown(root, "RUNNING", 2), SECONDS)
            raise StoppedError("stopped")

    with pytest.raises(StoppedError):
        train_until_stopped()
    killed = live(root)
    assert killed is not None
    assert killed.info.status == "KILLED"

    journal = begin(root)
    tell(journal, 3)
    with follow(journal.path):
        wait_for(shown(root, "RUNNING", 3), SECONDS)
        journal.write(3, {"system/cpu_utilization_percentage": 97.5})
        journal.validation(EvalPoint(4, 400, 6.5, 3.75, 0.01))
    finished = live(root)
    assert finished is not None
    assert (finished.info.run_id, finished.info.status) == (killed.info.run_id, "FINISHED")
    assert finished.data.metrics["validation_loss"] == 3.75
    end(root, journal)
    assert "lstm" in track(root)
    assert runs(root)["lstm"].info.run_id == killed.info.run_id
    assert track(root) == []

    alone = tmp_path / "alone"
    alone.mkdir()
    shutil.copy(empty_store, alone / "mlflow.db")
    sync(root, f"sqlite:///{alone}/mlflow.db")
    assert content(f"sqlite:///{alone}/mlflow.db", root) == content(None, root)


def test_a_result_that_is_logged_already_is_no_second_run_because_it_was_trained_again(root: Path) -> None:
    track(root)
    before = runs(root)["lstm"].info.run_id
    journal = begin(root)
    tell(journal, 1)
    with store.find(root).connected() as client:
        experiment = client.get_experiment_by_name("recurlm").experiment_id
        with follower("recurlm")(journal.path):
            wait_for(lambda: client.search_runs([experiment], "status = 'RUNNING'"), SECONDS)
    end(root, journal)
    assert track(root) == []
    assert runs(root)["lstm"].info.run_id == before


def test_the_store_is_made_and_the_run_looked_for_within_the_lock_and_a_database_is_read_through_once(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(root / ".mlflow")  # as in a fresh clone
    locked, checks = [], []
    reach, check = store.Store._client, store.Store.check

    def reach_and_look(place: store.Store) -> Any:
        with place.lock.open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                locked.append(False)
            except BlockingIOError:
                locked.append(True)
        return reach(place)

    def count(place: store.Store) -> None:
        checks.append(place)
        check(place)

    monkeypatch.setattr(store.Store, "_client", reach_and_look)
    monkeypatch.setattr(store.Store, "check", count)
    journal = begin(root)
    live = Follower(journal.path, "recurlm")
    for step in range(3):
        tell(journal, step)
        live.log(None)
    assert locked == [True, False, False]  # `sync` may hold it for minutes: lines are logged beside it
    assert len(checks) == 1
    path = root / ".mlflow/mlflow.db"
    whole = path.read_bytes()
    path.write_bytes(b"no database" * 1000)
    tell(journal, 3)
    with pytest.raises(store.DamagedStoreError):
        live.log(None)
    path.write_bytes(whole)
    before = len(checks)
    live.log("FINISHED")
    live.log("FINISHED")
    assert len(checks) == before + 1


@pytest.fixture
def silent() -> Iterator[str]:
    """A server that takes requests and never answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_store_that_is_away_is_one_line_and_is_filled_in_the_end(
    root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://somebody:secret@127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    journal, said = begin(root), [""]

    def warned() -> bool:
        said[0] += capfd.readouterr().err
        return "out of reach" in said[0]

    with follower("recurlm")(journal.path):
        tell(journal, 1)
        wait_for(warned, SECONDS)
        tell(journal, 2)
    said[0] += capfd.readouterr().err
    assert said[0].strip() == (
        "train: MLflow at http://127.0.0.1:9: out of reach: the training goes on, and its run is filled in at the end"
    )
    end(root, journal)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "")
    track(root)
    with store.find(root).connected() as client:
        losses = client.get_metric_history(runs(root)["lstm"].info.run_id, "train_loss")
    assert [loss.step for loss in losses] == [1, 2]


def test_a_store_that_never_answers_holds_no_training_up(
    root: Path, silent: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", silent)
    monkeypatch.setattr("recurlm.tracking.live.PATIENCE", 0.5)
    journal = begin(root)
    with follower("recurlm")(journal.path):
        for step in range(1000):
            tell(journal, step)
    assert len(read_journal(journal.path)) == 2001
