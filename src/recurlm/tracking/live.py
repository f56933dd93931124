"""Follow a training run into MLflow while it goes on: python -m recurlm.tracking.live JOURNAL EXPERIMENT.

The training only appends to its journal; a process of its own, of lower priority, reads the lines and logs them. So a
store that is away or slow leaves this process behind and nothing else. What is missing at the end, `recurlm sync` logs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import TYPE_CHECKING, Any

from recurlm.tracking import store
from recurlm.tracking.store import Store, StoreError

if TYPE_CHECKING:  # MLflow takes seconds to import, which a short training does not last
    from mlflow import MlflowClient

TRAINING = "recurlm.training"  # tag of a run: the id in the journal of its training
AFTER = 3.0  # seconds before the first connection
EVERY = 1.0  # seconds between two looks at the journal
RETRY = 10.0  # seconds after a store did not answer
PATIENCE = 5.0  # seconds that a training waits at its end for the last lines to be logged


def follower(experiment: str) -> Callable[[Path], AbstractContextManager[None]]:
    """What `train_variant` enters while a run goes on."""

    @contextmanager
    def follow(journal: Path) -> Iterator[None]:
        command = [sys.executable, "-m", "recurlm.tracking.live", str(journal), experiment]
        timeout = {"MLFLOW_HTTP_REQUEST_TIMEOUT": "10"}
        # A session of its own: Ctrl-C is for the training, whose end closes the pipe, however it comes.
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=timeout | os.environ, start_new_session=True, text=True
        )
        from recurlm.training.loop import StoppedError

        verdict = "KILLED"
        try:
            yield
            verdict = "FINISHED"
        except StoppedError:
            raise
        except Exception:
            verdict = "FAILED"
            raise
        finally:
            try:
                process.communicate(verdict, PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    return follow


class Follower:
    """Logs the lines of a journal, in their order, each once."""

    def __init__(self, journal: Path, experiment: str) -> None:
        self.file, self.rest = journal.open(encoding="utf-8"), ""
        self.head: dict[str, Any] = {}
        self.waiting: list[dict[str, Any]] = []
        self.experiment, self.run = experiment, ""
        self.sound = False  # whether the store answered last time

    def log(self, verdict: str | None) -> None:
        """Log the lines that are new; `verdict` is the run's status at its end.

        Raises:
            StoreError: the store is out of reach. Nothing is lost: what was not logged waits.
        """
        from mlflow.entities import Metric

        *lines, self.rest = (self.rest + self.file.read()).split("\n")  # the last one may have no end yet
        self.waiting += map(json.loads, lines)
        self.head = self.head or self.waiting.pop(0)
        place, checked = store.find(Path()), self.sound
        self.sound = False
        with ExitStack() as entered:
            if not self.run:  # `sync` may make the store's tables, or look for this run, at the same time
                entered.enter_context(place.locked())
            # To read a large database through takes about a second, as long as from one look to the next.
            client = entered.enter_context(place.connected(check=not checked))
            self.run = self.run or self._open(client, place)
            metrics = [Metric(*each) for each in metrics_of(self.waiting)]
            client.log_batch(self.run, metrics)
            if verdict:
                client.set_terminated(self.run, verdict, self.waiting[-1]["time"] if self.waiting else None)
            self.waiting.clear()
        self.sound = True

    def _open(self, client: MlflowClient, place: Store) -> str:
        """The run of this training: a new one, or that of a training which goes on after a kill; within the lock."""
        from recurlm.tracking import view

        experiment = store.open_experiment(client, place, self.experiment)
        view.lay_out(client, experiment)
        for run in client.search_runs([experiment], f"tags.`{TRAINING}` = '{self.head['id']}'"):
            client.update_run(run.info.run_id, "RUNNING")
            return str(run.info.run_id)
        tags = {TRAINING: self.head["id"], "variant": self.head["variant"], "mlflow.user": store.user()}
        run = client.create_run(experiment, self.head["time"], tags, self.head["variant"])
        return str(run.info.run_id)


def metrics_of(lines: list[dict[str, Any]]) -> Iterator[tuple[str, float, int, int]]:
    """(name, value, time in ms, step) of the metrics in a journal's lines."""
    for line in lines:
        for name, value in line.items():
            if name not in ("time", "step"):
                yield name, value, line["time"], line["step"]


def main() -> None:
    """Follow until the training closes stdin, by its end or by a kill."""
    os.nice(10)
    ended, verdict = Event(), ["KILLED"]

    def listen() -> None:
        verdict[0] = sys.stdin.read() or "KILLED"
        ended.set()

    Thread(target=listen, daemon=True).start()
    follower, warned = Follower(Path(sys.argv[1]), sys.argv[2]), False
    if ended.wait(AFTER):
        return
    pause = EVERY
    while True:
        over = ended.wait(pause)
        try:
            follower.log(verdict[0] if over else None)
            pause = EVERY
        except StoreError as error:
            pause = RETRY
            if not warned:
                sys.stderr.write(
                    f"\ntrain: {error.problem}: the training goes on, and its run is filled in at the end\n"
                )
            warned = True
        if over:
            return


if __name__ == "__main__":
    main()
