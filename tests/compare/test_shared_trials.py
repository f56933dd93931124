"""A search that processes share through PostgreSQL: the same trials, none lost with a process, no secret kept."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import optuna
import pytest
from configs import CHECKOUT
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.trial import TrialState
from servers import postgresql
from test_compare import project  # noqa: F401

from recurlm.compare import shared, tune
from recurlm.compare.settings import Compare, read_plan
from recurlm.errors import InputError
from recurlm.storage import read_json

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
