"""Processes that work for another one."""

from __future__ import annotations

import multiprocessing
import os
import threading


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
