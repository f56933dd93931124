"""A project with fabricated results and a real MLflow store: tracked, and read back."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from fabricated_results import write_lock
from mlflow.entities import Run

from recurlm.tracking import store
from recurlm.tracking.registry import versions_of
from recurlm.tracking.sync import sync

PIPELINE = Path(__file__).parents[2] / "pipelines/track.py"
QUIET = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
}


def messages(root: Path) -> list[str]:
    """The messages of stage track, after the stages before it made what is in data/."""
    write_lock(root)
    return sync(root)


def track(root: Path) -> list[str]:
    """The variants that stage track logged."""
    return [line.removeprefix("logged ") for line in messages(root) if line.startswith("logged ")]


def runs(root: Path) -> dict[str, Run]:
    """The finished runs of variants that are in the store, name → run; none is there twice, and none is unfinished."""
    found = [run for run in all_runs(root) if "variant" in run.data.tags]
    names = [run.info.run_name for run in found]
    assert sorted(names) == sorted(set(names))
    return {run.info.run_name: run for run in found}


def pipelines(root: Path) -> list[Run]:
    """The finished runs above them."""
    return [run for run in all_runs(root) if "variant" not in run.data.tags]


def all_runs(root: Path) -> list[Run]:
    with store.find(root).connected() as client:
        experiment = client.get_experiment_by_name("recurlm")
        found = client.search_runs([experiment.experiment_id])
    assert all(run.info.status == "FINISHED" for run in found)
    return list(found)


def versions(root: Path) -> dict[str, list[tuple[str, str]]]:
    """Registered model → the variant and precision of its versions, in their order."""
    with store.find(root).connected() as client:
        return {
            model.name: [
                tuple(re.match(r"(\S+) in (\w+),", each.description).groups()) for each in versions_of(model.name)
            ]
            for model in client.search_registered_models()
        }


def aliases(root: Path, name: str) -> dict[str, str]:
    with store.find(root).connected() as client:
        return {alias: str(version) for alias, version in client.get_registered_model(name).aliases.items()}


def start(root: Path, **environment: str) -> subprocess.Popen[str]:
    """Stage track as a process of its own."""
    variables = os.environ | QUIET | environment
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, str(PIPELINE)], cwd=root, env=variables, stderr=pipe, text=True)


def finish(process: subprocess.Popen[str]) -> list[str]:
    """What it said."""
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return said.splitlines()


@contextmanager
def serving(folder: Path, *arguments: str, ready: str, **environment: str) -> Iterator[str]:
    """The address of a program of MLflow that listens on a port of its own.

    Args:
        arguments: of `mlflow`; `{port}` stands for the port.
        ready: the path that answers once it is up.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", *(each.format(port=port) for each in arguments)]
    log = folder / "log"
    variables = os.environ | QUIET | environment
    with (
        log.open("w") as said,
        subprocess.Popen(
            command, stdout=said, stderr=said, cwd=folder, env=variables, start_new_session=True
        ) as process,
    ):

        def up() -> bool:
            assert process.poll() is None, log.read_text(encoding="utf-8")[-3000:]
            return answers(f"http://127.0.0.1:{port}{ready}")

        try:
            wait_for(up, 300)
            yield f"http://127.0.0.1:{port}"
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, 15)  # its workers too


def wait_for(ready: Callable[[], Any], seconds: float) -> None:
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
