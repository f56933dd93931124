"""Starting the processes of a training run on this machine, with torchrun's own agent."""

from __future__ import annotations

import logging
import os
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from recurlm.progress import say
from recurlm.training.distributed import LOST

INTERRUPTED = 130  # exit status, as a shell reports a program that SIGINT ended
RESTARTS = 3  # in a row, without a new checkpoint between them


def launch(command: Sequence[str], processes: int, checkpoint: Path) -> int:
    """Run a Python command line in so many processes, to its end.

    If a signal ends one of them, or one is silent, all are started again and go on from `checkpoint`.

    Returns:
        The exit status: 0, or that of a process that failed; `INTERRUPTED` where SIGINT or SIGTERM asked for the end.
    """
    # Its pages of warnings; what ends a process is said by the process.
    logging.disable(logging.CRITICAL)
    restarts = 0
    while True:
        before = _version(checkpoint)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=uuid.uuid4().hex,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            local_addr="localhost",
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        )
        try:
            elastic_launch(config, sys.executable)(*command)
            return 0
        except SignalException:
            return INTERRUPTED
        except ChildFailedError as error:
            failed = {rank: failure.exitcode for rank, failure in error.failures.items()}
        ended = {rank: status for rank, status in failed.items() if status < 0}
        final = [status for status in failed.values() if status >= 0 and status != LOST]
        if final:
            return min(final)
        restarts = 1 if _version(checkpoint) != before else restarts + 1
        why = ", ".join(f"process {rank} was ended by signal {-status}" for rank, status in ended.items())
        if restarts > RESTARTS:
            say(f"recurlm: {why or 'a process was lost'}, {RESTARTS} times since the last checkpoint: given up")
            return LOST
        say(f"recurlm: {why or 'a process was lost'}: all {processes} start again from the last checkpoint")


def _version(path: Path) -> tuple[int, int]:
    """Changes when the file is replaced."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns
