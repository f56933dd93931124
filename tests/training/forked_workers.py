"""Training in processes that are forked from one that has imported torch, since that is what takes time.

python forked_workers.py FOLDER: every run of `RUNS`; each process leaves its weights and curve in FOLDER.
"""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # what the first optimizer imports
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parents[1]))
from configs import model_config, train_config
from safetensors.torch import save_file

from recurlm.model import build
from recurlm.storage import write_json
from recurlm.training.batches import Stream
from recurlm.training.checkpoint import Checkpoint
from recurlm.training.distributed import Workers
from recurlm.training.loop import StoppedError, train
from recurlm.training.optimizer import has_bf16

VOCABULARY, SPECIAL = 30, {"bos": 0, "mask": 1}
# All that is drawn or has a row of its own; 6 rows, which 4 processes cannot share evenly.
SETTINGS: dict[str, Any] = {
    "data.epochs": 3,
    "data.batch_size": 6,
    "data.sequence_length": 12,
    "data.state_reset_prob": 0.2,
    "evaluation.num_evals": 3,
    "regularization.ar": 0.1,
    "regularization.tar": 0.1,
    "regularization.average": "ema",
    "sampled_softmax": 5,
    "precision": "fp32",
}
DROPOUTS = {"dropout": 0.3, "embed_dropout": 0.1, "weight_drop": 0.2, "layers": 2}
STOP_AFTER = 17  # steps, of the runs that go on with another number of processes
# name → variant, number of processes, whether it stops, the run from whose checkpoint it goes on
RUNS: dict[str, tuple[str, int, bool, str | None]] = {
    "lstm1": ("lstm", 1, False, None),
    "lstm2": ("lstm", 2, False, None),
    "lstm4": ("lstm", 4, False, None),
    "lstm2again": ("lstm", 2, False, None),
    "lstm2stopped": ("lstm", 2, True, None),
    "lstm2goeson": ("lstm", 2, False, "lstm2stopped"),
    "lstm4goeson": ("lstm", 4, False, "lstm2stopped"),
    "lstm2returned": ("lstm", 2, False, "lstm2stopped"),  # the first process is of a machine that was away
    "bilstm1": ("bilstm", 1, False, None),
    "bilstm4": ("bilstm", 4, False, None),
}
if has_bf16(torch.device("cpu")):
    RUNS |= {"lstm1bf16": ("lstm", 1, False, None), "lstm2bf16": ("lstm", 2, False, None)}


def text() -> np.ndarray:
    """Documents of 40 tokens, which begin at other places of the rows' windows."""
    ids = np.random.default_rng(3).zipf(1.4, 3000) % (VOCABULARY - 2) + 2
    ids[::41] = SPECIAL["bos"]
    return ids.astype(np.uint16)


def work(name: str, rank: int, folder: Path) -> None:
    variant, world, stops, goes_on = RUNS[name]
    torch.set_num_threads(1)
    workers = Workers(rank, world)
    if world > 1:
        store = dist.FileStore(str(folder / f"{name}.store"), world)
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    checkpoint = None
    if stops or goes_on:
        # They have no disk in common.
        path = folder / (f"{name}.checkpoint" if workers.first else f"{name}.elsewhere{rank}")
        if goes_on and rank == (world - 1 if name.endswith("returned") else 0):
            path.write_bytes((folder / f"{goes_on}.checkpoint").read_bytes())
        checkpoint = Checkpoint(path, "key", every=1e9, workers=workers)
    precision = {"precision": "bf16"} if name.endswith("bf16") else {}
    config, sizes = train_config(**SETTINGS | precision), model_config(variant, **DROPOUTS)
    torch.manual_seed(1)
    model = build(variant, sizes, VOCABULARY)
    if not workers.first:  # it is the first one's weights that count
        for parameter in model.parameters():
            parameter.data.zero_()
    stream = Stream(text(), config.data.batch_size, config.data.sequence_length, seed=1)
    losses: list[float] = []
    try:
        result = train(
            model,
            stream,
            SPECIAL,
            config,
            sizes,
            lambda model: model.decoder.bias.detach().sum().item(),
            lambda step, tokens, loss: None if math.isnan(loss) else losses.append(loss),
            checkpoint,
            lambda: stops and rank == world - 1 and len(losses) == STOP_AFTER,
            workers=workers,
        )
        weights = {key: value.clone() for key, value in model.state_dict().items()}
        save_file(weights, folder / f"{name}.{rank}.safetensors")
        write_json(folder / f"{name}.{rank}.json", {"losses": losses, "curve": result.curve})
    except StoppedError:
        pass


def run(name: str, folder: Path) -> None:
    children = []
    for rank in range(RUNS[name][1]):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                work(name, rank, folder)
                status = 0
            finally:
                sys.stderr.flush()
                os._exit(status)
        children.append(child)
    if any(os.waitpid(child, 0)[1] for child in children):
        sys.exit(f"{name} failed")


if __name__ == "__main__":
    for name in RUNS:
        run(name, Path(sys.argv[1]))
