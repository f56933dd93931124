"""Training on several machines, which are network namespaces, by torchrun's agents, which fork their workers.

python machines.py FOLDER: every scenario; FOLDER has a prepared project, and gets a folder for each scenario. An agent
forks from a process that has imported torch, since that is what takes time; all else is as `torchrun` does it.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import sys
import time
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
import torch._dynamo  # noqa: F401  (what the first optimizer imports)

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))
from network import Network, address
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from recurlm import config
from recurlm.stage import DATA, make_deterministic
from recurlm.training.distributed import workers_of
from recurlm.training.run import checkpoint_path, train_variant

KILLS = 20
STEP_SECONDS = 0.1  # added to every step, so that the run lasts until a machine is back
SECONDS = 600  # of a scenario, at most


def train() -> None:
    """What a worker does: the stage `train` without MLflow."""
    # Not by the agent: where it starts its worker anew for another machine's sake, it writes over the log of the last.
    os.dup2(os.open(f"said.{os.getpid()}", os.O_CREAT | os.O_WRONLY), 2)
    params = config.load()
    make_deterministic(1)

    def stop() -> bool:
        time.sleep(STEP_SECONDS)
        return False

    with workers_of(params.train) as workers:
        train_variant("gru", params, DATA, stop, workers)


def agent(network: Network, machine: int, folder: Path, run: str, least: int) -> None:
    """What `torchrun --nnodes LEAST:2 --nproc-per-node 1 … --rdzv-endpoint 10.77.0.1:29500` is."""
    network.enter(machine)
    os.chdir(folder)
    # An agent that comes later would wait in vain for the address that the others told each other before.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    settings = LaunchConfig(
        min_nodes=least,
        max_nodes=2,
        nproc_per_node=1,
        run_id=run,
        rdzv_backend="c10d",
        rdzv_endpoint=f"{address(1)}:29500",
        rdzv_configs={
            "is_host": machine == 1,  # its host name leads to another address
            "keep_alive_interval": 2,
            "keep_alive_max_attempt": 5,
            "last_call_timeout": 1,
            "timeout": SECONDS,
        },
        local_addr=address(machine),
        max_restarts=10 * KILLS,
        monitor_interval=0.05,
        start_method="fork",
        logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
    )
    elastic_launch(settings, train)()


class Run:
    """Two machines that train, each with a folder of its own."""

    def __init__(self, network: Network, prepared: Path, folder: Path, least: int = 2) -> None:
        self.network, self.folder, self.least, self.id = network, folder, least, uuid.uuid4().hex
        self.agents: dict[int, int] = {}
        for machine in (1, 2):
            shutil.copytree(prepared, folder / str(machine))
            self.start(machine)

    def start(self, machine: int) -> None:
        child = os.fork()
        if child == 0:
            status = 1
            try:
                with (self.folder / f"agent{machine}").open("a") as said:
                    os.dup2(said.fileno(), 2)
                agent(self.network, machine, self.folder / str(machine), self.id, self.least)
                status = 0
            except Exception:
                traceback.print_exc()
            finally:
                sys.stderr.flush()
                os._exit(status)
        self.agents[machine] = child

    def worker(self, machine: int) -> psutil.Process | None:
        """The process that trains on a machine, if there is one now."""
        try:
            children = psutil.Process(self.agents[machine]).children()
            return next((child for child in children if child.status() != psutil.STATUS_ZOMBIE), None)
        except psutil.NoSuchProcess:
            return None

    def lose(self, machine: int) -> None:
        """A machine goes away with all that runs on it."""
        worker = self.worker(machine)
        for process in (psutil.Process(self.agents[machine]), worker):
            if process:
                process.kill()
        os.waitpid(self.agents.pop(machine), 0)

    def version(self) -> int:
        """Changes with every checkpoint; 0 before the first."""
        path = self.folder / "1" / checkpoint_path("gru", DATA)
        return path.stat().st_mtime_ns if path.exists() else 0

    def wait(self, ready: Callable[[], object]) -> None:
        end = time.monotonic() + SECONDS
        while not ready():
            if time.monotonic() > end:
                raise TimeoutError(f"{self.folder.name}: {SECONDS} s")
            time.sleep(0.005)

    def wait_for_checkpoints(self, count: int) -> None:
        for _ in range(count):
            before = self.version()
            self.wait(lambda before=before: self.version() not in (0, before) or self.over)

    @property
    def over(self) -> bool:
        return (self.folder / "1/data/models/gru").exists()

    def finish(self) -> None:
        for machine, child in self.agents.items():

            def ended(child: int = child) -> bool:
                return psutil.Process(child).status() == psutil.STATUS_ZOMBIE

            try:
                self.wait(ended)
            finally:
                os.kill(child, signal.SIGKILL)
            if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
                raise RuntimeError(f"{self.folder.name}: the agent of machine {machine} failed")


def undisturbed(run: Run) -> None:
    pass


def killed(run: Run) -> None:
    """A worker of either machine, at random moments: mostly while it trains, now and then while it starts."""
    draw = random.Random(1)
    for number in range(KILLS):
        if number % 5:
            run.wait_for_checkpoints(1)
            started = time.monotonic()
            run.wait_for_checkpoints(1)
            time.sleep(draw.uniform(0, 2) * (time.monotonic() - started))  # somewhere in the next steps
        machine = draw.choice((1, 2))
        run.wait(lambda machine=machine: run.worker(machine) or run.over)
        if run.over:
            raise RuntimeError(f"over after {number} kills")
        worker = run.worker(machine)
        if worker:
            worker.kill()


def unplugged(run: Run) -> None:
    """A cable is out for a moment, which TCP mends, and then for longer than train.machine.timeout_seconds."""
    for seconds in (0.5, 16):
        run.wait_for_checkpoints(2)
        run.network.link(2, "down")
        time.sleep(seconds)
        run.network.link(2, "up")
    run.wait_for_checkpoints(2)


def away(run: Run) -> None:
    """A machine goes away; the other trains on alone; it comes back and takes its part again."""
    run.wait_for_checkpoints(5)
    run.lose(2)
    run.wait_for_checkpoints(5)
    if run.over:
        raise RuntimeError("over before machine 2 came back")
    run.start(2)


SCENARIOS = {"undisturbed": undisturbed, "killed": killed, "unplugged": unplugged, "away": away}


def main(folder: Path, names: list[str]) -> None:
    for name in names or SCENARIOS:
        with Network(2) as network:
            run = Run(network, folder / "prepared", folder / name, least=1 if name == "away" else 2)
            try:
                SCENARIOS[name](run)
                run.finish()
            finally:
                for child in run.agents.values():
                    try:
                        for process in [*psutil.Process(child).children(), psutil.Process(child)]:
                            process.kill()
                    except psutil.NoSuchProcess:
                        pass


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
