"""A search that processes share through PostgreSQL: the same trials, none lost with a process, no secret kept."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from configs import CHECKOUT
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.storages import RetryHeartbeatStaleTrialCallback
from optuna.trial import FrozenTrial, TrialState
from servers import postgresql
from test_compare import project  # noqa: F401

from recurlm.compare import shared, tune
from recurlm.compare.settings import Compare, read_plan
from recurlm.errors import InputError
from recurlm.storage import read_json
from recurlm.training.loop import StoppedError

PASSWORD = "a-password-of-the-database"
# One process of the search; with an argument it hangs in its first trial.
WORKER = """
import sys, time
from recurlm.compare import settings, shared, tune
from recurlm.stage import make_deterministic
shared.HEARTBEAT_SECONDS, shared.POLL_SECONDS = 1, 0.2
def hang():
    print("hangs", flush=True)
    time.sleep(600)
compare = settings.load()
make_deterministic(1)
tune.tune(compare, settings.read_plan(compare, "gru"), hang if sys.argv[1:] else lambda: False)
"""


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    with postgresql(PASSWORD) as address:
        monkeypatch.setenv(shared.VARIABLE, address)
        yield address


def work(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONPATH": str(CHECKOUT / "src")}
    command, pipe = [sys.executable, "-c", WORKER, *arguments], subprocess.PIPE
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=pipe, stderr=pipe, text=True)


def test_processes_share_trials_and_take_up_that_of_a_killed_one(
    project: Compare,  # noqa: F811
    address: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    clones = [tmp_path_factory.mktemp("clones") / name for name in ("killed", "one", "two")]
    for clone in clones:
        shutil.copytree(Path.cwd(), clone)
    killed = work(clones[0], "hangs")
    assert killed.stdout
    assert killed.stdout.readline() == "hangs\n"
    killed.kill()
    said = [killed.communicate()[1]]
    for process in [work(clone) for clone in clones[1:]]:
        said.append(process.communicate(timeout=300)[1])
        assert process.returncode == 0, said[-1]
    one, two = ((clone / project.folder / "tuned/gru.json").read_bytes() for clone in clones[1:])
    assert one == two

    (study,) = optuna.get_all_study_names(address)
    trials = optuna.load_study(study_name=study, storage=address).trials
    (lost,) = [trial for trial in trials if trial.state == TrialState.FAIL]
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    assert len(complete) == project.tune.trials
    assert [trial.params for trial in complete].count(lost.params) == 1
    # Each process did a part: what one finished, the other did not do again.
    assert sum(text.count("nats a token") for text in said) == project.tune.trials
    files = {path: path.read_bytes() for clone in clones for path in clone.rglob("*") if path.is_file()}
    assert {path for path, content in files.items() if PASSWORD.encode() in content} == set()
    assert PASSWORD not in "".join(said)

    # One process alone in a database, and one with its own file, have the same trials.
    found = []
    for place in (address.replace("/postgres", "/template1"), ""):
        monkeypatch.setenv(shared.VARIABLE, place)
        tune.tune(project, read_plan(project, "lstm"))
        found.append(read_json(project.folder / "tuned/lstm.json"))
    assert found[0] == found[1]
    monkeypatch.setenv(shared.VARIABLE, address.replace(PASSWORD, f"{PASSWORD}-not"))
    monkeypatch.setattr(shared, "ATTEMPTS", 1)
    with pytest.raises(InputError, match=r"the database that OPTUNA_STORAGE names: .*password") as refused:
        tune.tune(project, read_plan(project, "lstm"))
    assert PASSWORD not in str(refused.value)


def test_a_trial_whose_process_was_killed_before_its_first_heartbeat_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shared, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(shared, "POLL_SECONDS", 0.1)
    address = f"sqlite:///{tmp_path / 'trials.db'}"
    killed, _ = shared._open(address, "search")
    killed.enqueue_trial({"rate": 0.25})
    killed.ask()  # what comes before the heartbeat
    space: dict[str, BaseDistribution] = {"rate": FloatDistribution(0.0, 1.0)}
    trials = shared.search(
        address, "search", 2, space, lambda number, earlier: {"rate": 0.5}, lambda number, settings: settings["rate"]
    )
    assert sorted(trial.params["rate"] for trial in trials) == [0.25, 0.5]


@pytest.fixture
def trials(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a database without trials, for searches whose processes do not wait long for each other."""
    monkeypatch.setattr(shared, "HEARTBEAT_SECONDS", 1)
    monkeypatch.setattr(shared, "POLL_SECONDS", 0.1)
    return tmp_path / "trials.db"


def rates(file: Path, run: Callable[[int, shared.Settings], float]) -> list[float]:
    """What a search of three trials tries; the settings of a proposal are a tenth of its number."""
    space: dict[str, BaseDistribution] = {"rate": FloatDistribution(0.0, 1.0)}

    def propose(number: int, earlier: list[FrozenTrial]) -> shared.Settings:
        return {"rate": (number + 1) / 10}

    return [trial.params["rate"] for trial in shared.search(f"sqlite:///{file}", "search", 3, space, propose, run)]


@pytest.mark.parametrize("error", [StoppedError("stopped"), InputError("out of memory")])
def test_a_trial_that_ended_early_is_tried_again_and_the_end_is_the_same(trials: Path, error: Exception) -> None:
    def end_early(number: int, settings: shared.Settings) -> float:
        if number == 1:
            raise error
        return settings["rate"]

    for _ in range(5):  # more often than what kills its process
        with pytest.raises(type(error)):
            rates(trials, end_early)
    assert rates(trials, lambda number, settings: settings["rate"]) == [0.1, 0.2, 0.3]


def test_a_process_that_was_taken_for_dead_during_a_pause_goes_on(trials: Path) -> None:
    tried: list[float] = []

    def pause(number: int, settings: shared.Settings) -> float:
        tried.append(settings["rate"])
        if tried == [0.1, 0.2]:
            study, storage = shared._open(f"sqlite:///{trials}", "search")
            (running,) = study.get_trials(states=(TrialState.RUNNING,))
            storage.set_trial_state_values(running._trial_id, TrialState.FAIL)
            RetryHeartbeatStaleTrialCallback(shared.RETRIES)(study, running)
        return settings["rate"]

    assert rates(trials, pause) == [0.1, 0.2, 0.3]
    assert tried == [0.1, 0.2, 0.2, 0.3]


def test_a_database_that_is_lost_in_the_middle_is_one_line(trials: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def lose(number: int, settings: shared.Settings) -> float:
        with closing(sqlite3.connect(trials)) as database:
            database.execute("DROP TABLE trial_values")
            database.execute("DROP TABLE trial_heartbeats")
        time.sleep(1.5)  # a heartbeat
        return settings["rate"]

    with pytest.raises(InputError, match=r"the database that OPTUNA_STORAGE names: no such table"):
        rates(trials, lose)
    assert "Traceback" not in capfd.readouterr().err
