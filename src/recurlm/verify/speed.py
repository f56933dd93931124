"""Generation speed of a bundle: a measurement of this machine, not a result."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from recurlm.config import Sampling
from recurlm.objective import Objective
from recurlm.verify.sessions import Graphs

TOKENS, RUNS = 500, 5


def measure(folder: Path, objective: Objective) -> dict[str, Any]:
    """Median tokens per second of generator.onnx at batch 1 on one thread; filled positions of filler.onnx."""
    graphs, fills = Graphs(folder, threads=1), objective.both_sides
    uniform = np.random.default_rng(0).random((1, TOKENS), np.float32)
    text = np.zeros((1, TOKENS), np.int64)
    sampling = Sampling(temperature=1.0, top_k=0, top_p=1.0)

    def run() -> None:
        if fills:
            graphs.fill(text, np.array([TOKENS]), uniform, sampling)
        else:
            graphs.generate(text[:, :1], uniform, sampling)

    run()  # loads the graph
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    speed = TOKENS / statistics.median(seconds)
    return {
        "tokens_per_second": None if fills else speed,
        "filled_per_second": speed if fills else None,
        "threads": 1,
        "batch": 1,
    }
