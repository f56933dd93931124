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
MOST_SAVES, MOST_SECONDS = 30, 0.02  # until a kill, and from a save to the kill


def saved_at(variant: str) -> int:
    """When the checkpoint was written; 0 where there is none."""
    try:
        return (CHECKPOINT / f"{variant}.safetensors").stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def attempt(variant: str, saves: int | None, seconds: float) -> bool:
    """Train, and kill it so many seconds after it saved its state so many times; whether it came to its end."""
    last = saved_at(variant)
    child = os.fork()
    if child == 0:
        sys.argv = ["train.py", variant]
        try:
            train.run_variant(train.main)
        finally:
            os._exit(0 if Path(f"data/models/{variant}/model.safetensors").exists() else 1)
    ended, status = 0, 0
    while saves and not ended:
        time.sleep(0.001)
        now = saved_at(variant)
        saves, last = (saves - 1, now) if now not in (0, last) else (saves, last)
        ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        if saves is not None:
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
        if attempt(variant, draw.randint(0, MOST_SAVES), draw.uniform(0, MOST_SECONDS)):
            break  # it was quicker
        killed += 1
    else:
        resumed += any(CHECKPOINT.glob("*.safetensors"))
        attempt(variant, None, 0)
    print(killed, resumed)


if __name__ == "__main__":
    main()
