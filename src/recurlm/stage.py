"""What the pipeline's scripts and processes have in common: arguments, determinism, a clean end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from pathlib import Path

from recurlm import config
from recurlm.config import Params
from recurlm.errors import InputError, exit_cleanly

DATA = Path("data")


def run(main: Callable[[Params], None]) -> None:
    """Run a stage of the whole pipeline: read params.yaml, end with one line and status 2 on bad input."""
    exit_cleanly(lambda: main(config.load()))


def run_variant(main: Callable[[str, Params], None]) -> None:
    """Run a stage of one variant, which the command line names."""

    def stage() -> None:
        if len(sys.argv) != 2:
            raise InputError(f"which variant? python {sys.argv[0]} VARIANT")
        name, params = sys.argv[1], config.load()
        params.variant(name)
        main(name, params)

    exit_cleanly(stage)


def make_deterministic(threads: int | None = None) -> None:
    """Let torch give the same bytes in every run on one kind of machine.

    Args:
        threads: of torch within an operator; None: as many as it takes by itself.
    """
    import torch

    from recurlm.training.machine import tune_malloc

    tune_malloc()
    if threads is not None:
        torch.set_num_threads(threads)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, CUDA's sums differ from run to run
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written, and filling it took 13 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def stop_on_signals() -> Callable[[], bool]:
    """Note SIGINT and SIGTERM, so that a loop can end after the step that is under way: whether one came."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: received.append(number))
    return lambda: bool(received)


def end_with_parent() -> None:
    """End this process when the one that started it has ended: `kill -9` gives that one no time to say so.

    As the `initializer` of a ProcessPoolExecutor, whose processes would wait for work for ever.
    """
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, name="recurlm-parent", daemon=True).start()
