"""Training on several processes: the data, masks and results of one; the same bytes again; lost processes."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import forked_workers
import psutil
import pytest
import yaml
from configs import CHECKOUT
from hypothesis import given
from hypothesis import strategies as st
from tiny_training import write_tiny_project

from recurlm import config
from recurlm.errors import InputError
from recurlm.stage import DATA
from recurlm.training.distributed import LOST, Workers
from recurlm.training.run import train_variant

NATS = 1e-3  # between runs whose sums have another order
RESULTS = ("model.safetensors", "model.json", "curve.csv", "log.csv")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    subprocess.run([sys.executable, forked_workers.__file__, str(folder)], check=True, capture_output=True)
    return folder


def losses(runs: Path, name: str, rank: int = 0) -> list[float]:
    """The loss of each step."""
    values: list[float] = json.loads((runs / f"{name}.{rank}.json").read_text(encoding="utf-8"))["losses"]
    return values


def weights(runs: Path, name: str, rank: int = 0) -> bytes:
    return (runs / f"{name}.{rank}.safetensors").read_bytes()


def largest_difference(one: list[float], other: list[float]) -> float:
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("one", "many"), [("lstm1", "lstm2"), ("lstm1", "lstm4"), ("bilstm1", "bilstm4"), ("lstm1", "lstm4goeson")]
)
def test_the_losses_do_not_depend_on_the_number_of_processes(runs: Path, one: str, many: str) -> None:
    alone, together = losses(runs, one), losses(runs, many)
    assert largest_difference(alone[-len(together) :], together) < NATS
    assert max(alone) - min(alone) > 100 * NATS


@pytest.mark.skipif("lstm1bf16" not in forked_workers.RUNS, reason="this machine does not multiply in bf16")
def test_in_bf16_a_step_differs_by_its_rounding_and_the_run_does_not(runs: Path) -> None:
    alone, together = losses(runs, "lstm1bf16"), losses(runs, "lstm2bf16")
    assert largest_difference(alone, together) < 10 * NATS  # of 72 tokens
    assert abs(fmean(alone) - fmean(together)) < 0.1 * NATS
    assert alone != losses(runs, "lstm1")


def test_all_processes_have_the_same_weights_and_know_the_same_loss(runs: Path) -> None:
    for name, (_, world, stops, _) in forked_workers.RUNS.items():
        if not stops:
            assert len({weights(runs, name, rank) for rank in range(world)}) == 1
            assert all(losses(runs, name, rank) == losses(runs, name) for rank in range(world))


def test_the_same_number_of_processes_gives_the_same_bytes_again(runs: Path) -> None:
    assert weights(runs, "lstm2") == weights(runs, "lstm2again")
    assert weights(runs, "lstm2") != weights(runs, "lstm4")


def test_a_run_goes_on_from_its_checkpoint_with_the_state_of_every_row(runs: Path) -> None:
    assert weights(runs, "lstm2goeson") == weights(runs, "lstm2")
    assert losses(runs, "lstm2goeson") == losses(runs, "lstm2")[forked_workers.STOP_AFTER :]


def test_a_run_goes_on_from_the_furthest_checkpoint_though_the_first_process_has_none(runs: Path) -> None:
    assert weights(runs, "lstm2returned") == weights(runs, "lstm2")


@given(world=st.integers(1, 40), more=st.integers(0, 100))
def test_each_row_has_one_process_and_each_process_a_row(world: int, more: int) -> None:
    parts = [Workers(rank, world).lanes(world + more) for rank in range(world)]
    assert (parts[0].start, parts[-1].stop) == (0, world + more)
    assert all(before.stop == after.start for before, after in pairwise(parts))
    sizes = [part.stop - part.start for part in parts]
    assert min(sizes) >= 1
    assert max(sizes) - min(sizes) <= 1


def test_more_processes_than_rows_are_refused() -> None:
    with pytest.raises(InputError, match=r"batch_size is 3, and 4 processes"):
        Workers(1, 4).join(forked_workers.build("lstm", forked_workers.model_config(), 9), 3)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with tokens whose training takes two processes some seconds."""
    folder = tmp_path_factory.mktemp("prepared")
    machine = {"processes": 2, "timeout_seconds": 60}
    write_tiny_project(folder, {"data": {"epochs": 4}, "checkpoint": {"every_seconds": 0}, "machine": machine})
    return folder


@pytest.fixture
def folder(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "project"))


def start(folder: Path) -> subprocess.Popen[str]:
    command = [sys.executable, str(CHECKOUT / "pipelines/train.py"), "gru"]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results(folder: Path) -> dict[str, bytes]:
    return {name: (folder / "data/models/gru" / name).read_bytes() for name in RESULTS}


def worker(stage: subprocess.Popen[str], folder: Path, rank: int) -> psutil.Process:
    """The process of a rank, once there is a checkpoint."""
    while not (folder / "data/checkpoints/gru.safetensors").exists():
        assert stage.poll() is None
        time.sleep(0.01)
    return next(child for child in psutil.Process(stage.pid).children() if child.environ().get("RANK") == str(rank))


def test_the_stage_starts_processes_and_a_killed_one_changes_no_byte_of_the_result(folder: Path) -> None:
    whole = start(folder)
    _, said = whole.communicate(timeout=120)
    assert whole.returncode == 0, said
    assert said.count("parameters") == 1  # one process speaks
    undisturbed = results(folder)
    timings = json.loads((folder / "data/timings/train-gru.json").read_text(encoding="utf-8"))
    assert timings["processes"] == 2
    shutil.rmtree(folder / "data/models/gru")

    killed = start(folder)
    worker(killed, folder, rank=1).kill()
    _, said = killed.communicate(timeout=120)
    assert killed.returncode == 0, said
    assert "process 1 was ended by signal 9: all 2 start again from the last checkpoint\n" in said
    assert "goes on from its checkpoint" in said
    assert "Traceback" not in said
    assert results(folder) == undisturbed


def test_ctrl_c_ends_all_processes_and_one_says_how_to_go_on(folder: Path) -> None:
    stage = start(folder)
    worker(stage, folder, rank=0)
    stage.send_signal(signal.SIGINT)
    _, said = stage.communicate(timeout=120)
    assert stage.returncode == 130
    assert said.count("is kept: run it again to go on") == 1
    assert "Traceback" not in said


def test_bad_input_is_said_by_one_process(folder: Path) -> None:
    params: dict[str, Any] = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["train"]["machine"]["processes"] = 5
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    stage = start(folder)
    _, said = stage.communicate(timeout=120)
    assert stage.returncode == 2
    assert [line for line in said.splitlines() if line.startswith("recurlm: ")] == [
        "recurlm: params.yaml: train.data.batch_size is 4, and 5 processes train, each with at least one row: "
        "raise it, or lower train.machine.processes"
    ]
    assert not (folder / "data/models").exists()


# Processes as torchrun starts them, forked from one that has imported torch; the statuses of some are printed.
FORKED = """
import os, signal, sys
import torch.distributed as dist
from configs import train_config
from recurlm import config
from recurlm.stage import DATA, make_deterministic
from recurlm.training.distributed import workers_of
from recurlm.training.run import train_variant
port = sys.argv[1]
os.environ |= {"TORCHELASTIC_RUN_ID": "test", "TORCHELASTIC_USE_AGENT_STORE": "True"}
os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": port}
def processes(count, work, waits_for):
    os.environ |= {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    children = []
    for rank in range(count):
        if (child := os.fork()) == 0:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            work(rank)
            os._exit(0)
        children.append(child)
    store = dist.TCPStore("localhost", int(port), is_master=True, wait_for_workers=False)  # as torchrun's agent has
    print(*(os.waitstatus_to_exitcode(os.waitpid(children[rank], 0)[1]) for rank in waits_for))
    return children
"""
HUNG = """
def work(rank):
    with workers_of(train_config(**{"machine.timeout_seconds": 5})) as workers:
        assert workers.sum(1.0) == [3.0]
        if rank == 1:
            signal.pause()  # hangs
        workers.sum(1.0)
os.kill(processes(3, work, waits_for=(0, 2))[1], signal.SIGKILL)
"""
APART = """
def work(rank):
    os.chdir(sys.argv[2 + rank])
    params = config.load()
    make_deterministic(1)
    with workers_of(params.train) as workers:
        train_variant("gru", params, DATA, lambda: False, workers)
processes(2, work, waits_for=(0, 1))
"""


def fork(script: str, *arguments: object) -> tuple[list[int], list[str]]:
    """The statuses of the processes of a script, and the lines that they said."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(CHECKOUT / "tests"), str(CHECKOUT / "src")])}
    command = [sys.executable, "-c", FORKED + script, str(unused_port()), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=120)
    return [int(status) for status in done.stdout.split()], done.stderr.splitlines()


def test_a_silent_process_is_named_in_one_line() -> None:
    statuses, lines = fork(HUNG)
    assert statuses == [LOST, LOST]
    (said,) = [line for line in lines if line.startswith("recurlm: ")]
    assert said.startswith("recurlm: process 1 of 0 to 2 is gone, or gave no answer for 5 seconds")


@pytest.fixture(scope="module")
def apart(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Projects of two processes that trained together, each in one of its own, and of one that trained alone."""
    folders = [tmp_path_factory.mktemp("apart") / name for name in ("first", "second", "alone")]
    for folder in folders:
        changes = {"data": {"epochs": 0.2}, "checkpoint": {"every_seconds": 0}, "precision": "fp32"}
        write_tiny_project(folder, changes)
    statuses, _ = fork(APART, *folders[:2])
    assert statuses == [0, 0]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folders[2])
        train_variant("gru", config.load(), DATA, lambda: False)
    return folders


def test_of_processes_without_a_common_disk_the_first_alone_writes(apart: list[Path]) -> None:
    assert set(results(apart[0])) == set(RESULTS)
    assert [path.name for path in (apart[1] / "data").iterdir()] == ["tokens"]


def test_the_losses_on_the_validation_split_do_not_depend_on_the_number_of_processes(apart: list[Path]) -> None:
    for name in ("curve.csv", "log.csv"):
        together, alone = (column(folder / "data/models/gru" / name, "validation_loss") for folder in apart[::2])
        assert len(together) > 1
        assert largest_difference(together, alone) < NATS


def column(path: Path, name: str) -> list[float]:
    with path.open(encoding="utf-8") as file:
        return [float(row[name]) for row in csv.DictReader(file) if row[name]]


def unused_port() -> int:
    with socket.socket() as found:
        found.bind(("localhost", 0))
        return int(found.getsockname()[1])
