"""A process that works for another one ends with it, even where that one is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

PROGRAM = """
import os, time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from recurlm.stage import end_with_parent
pool = ProcessPoolExecutor(1, get_context("spawn"), initializer=end_with_parent)
print(pool.submit(os.getpid).result(), flush=True)
time.sleep(1000)
"""


def runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_killed_process_leaves_none_behind_that_worked_for_it() -> None:
    with subprocess.Popen([sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout is not None
        worker = int(program.stdout.readline())
        assert runs(worker)
        program.send_signal(signal.SIGKILL)
        program.wait()
    end = time.monotonic() + 60
    while runs(worker) and time.monotonic() < end:
        time.sleep(0.02)
    if runs(worker):
        os.kill(worker, signal.SIGKILL)
        raise AssertionError("it works on, for nobody")
