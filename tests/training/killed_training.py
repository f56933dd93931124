"""python killed_training.py VARIANT KILLS SEED: train until a run ends, with so many `kill -9` on the way.

Each attempt is a process of its own, forked from one that has imported torch, since that is what takes time.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch._dynamo  # noqa: F401  # what the first optimizer imports, and takes seconds

sys.path.insert(0, str(Path(__file__).parents[2] / "pipelines"))
import train

CHECKPOINT = Path("data/checkpoints")


def attempt(variant: str, seconds: float | None) -> bool:
    """Train, and kill it after so many seconds; whether it came to its end."""
    child = os.fork()
    if child == 0:
        sys.argv = ["train.py", variant]
        try:
            train.run_variant(train.main)
        finally:
            os._exit(0 if Path(f"data/models/{variant}/model.safetensors").exists() else 1)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) != 0:
        sys.exit("the training failed")
    return os.WIFEXITED(status)


def main() -> None:
    variant, kills, seed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    draw, killed, resumed = random.Random(seed), 0, 0
    while killed < kills:
        resumed += any(CHECKPOINT.glob("*.safetensors"))
        if attempt(variant, draw.uniform(0.05, 1.0)):
            break  # it was quicker
        killed += 1
    else:
        resumed += any(CHECKPOINT.glob("*.safetensors"))
        attempt(variant, None)
    print(killed, resumed)


if __name__ == "__main__":
    main()
