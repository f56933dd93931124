"""Stage train@<variant>: a fresh model → the weights that were best on the validation split.

Inputs:  data/tokens/, sections `train` and `variants.<variant>` of params.yaml
Outputs: data/models/<variant>/ (model.safetensors, model.json, curve.csv)
         data/timings/train-<variant>.json (a measurement of this machine: DVC does not hash it)
         data/checkpoints/<variant>.safetensors, while it runs: broken off and run again, it goes on from there
Command: python pipelines/train.py <variant>
"""

from __future__ import annotations

import csv
import math
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import recurlm
from recurlm import config, model
from recurlm.config import Params
from recurlm.errors import InputError, exit_cleanly
from recurlm.evaluation.perplexity import score
from recurlm.model import LanguageModel
from recurlm.storage import sha256_of, whole_folder, write_json
from recurlm.tokens.batches import Stream
from recurlm.tokens.files import open_tokens
from recurlm.training.checkpoint import Checkpoint, key_of
from recurlm.training.load import Load
from recurlm.training.loop import StoppedError, count_tokens, train
from recurlm.training.memory import tune_malloc
from recurlm.training.progress import Point, Trained
from recurlm.training.recipe import precision

# Of validation during training: faster than the stage evaluate, and near it.
SECTION_TOKENS, WARMUP_TOKENS, SECTIONS = 1024, 64, 64
INTERRUPTED = 130  # as a shell reports a program that SIGINT ended


def main() -> None:
    if len(sys.argv) != 2:
        raise InputError("which variant? python pipelines/train.py VARIANT")
    name, params = sys.argv[1], config.load()
    block, recipe = params.variant(name), params.train
    training, validation = (open_tokens(Path("data/tokens"), split) for split in ("train", "validation"))
    if validation.counts["tokens"] == 0:
        raise InputError("data/tokens: the validation split has no tokens: add text, or give it a larger share")
    stream = Stream(
        training.ids, recipe.batch_size, recipe.sequence_length, seed=recipe.seed if recipe.random_offset else None
    )

    tune_malloc()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, CUDA's sums differ from run to run
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written, and filling it took 13 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(recipe.seed)
    device = model.best_device(recipe.device)
    network = model.build(name, block, training.manifest["vocab_size"]).to(device)
    path = Path("data/checkpoints") / f"{name}.safetensors"
    checkpoint = Checkpoint(path, run_key(name, params, device), recipe.checkpoint_seconds)
    stop = stop_on_signals()
    load = Load()
    every = 0.1 if sys.stderr.isatty() else 10  # a bar that moves on a terminal, a line now and then elsewhere
    with tqdm(
        total=count_tokens(recipe, stream), desc=f"train {name}", unit="token", unit_scale=True, mininterval=every
    ) as bar:

        def progress(tokens: int, loss: float) -> None:
            load.hear()
            if math.isnan(loss):  # the run goes on from a checkpoint
                bar.initial = bar.n = tokens
                return
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update(tokens - bar.n)

        def validate(network: LanguageModel) -> float:
            nats, count = score(network, validation.ids, validation.starts, SECTION_TOKENS, WARMUP_TOKENS, SECTIONS)
            return nats / count

        try:
            run = train(
                network, stream, training.manifest["special"], recipe, block, validate, progress, checkpoint, stop
            )
        except StoppedError as stopped:
            bar.close()
            sys.stderr.write(f"recurlm: {stopped}; {path} is kept: run it again to go on\n")
            sys.exit(INTERRUPTED)

    folder = Path("data/models") / name
    with whole_folder(folder) as partial:
        model.save(partial, network, name, block)
        write_curve(partial / "curve.csv", run.curve)
    write_json(Path("data/timings") / f"train-{name}.json", {**timings(folder, run, device), "system": load.samples})
    checkpoint.remove()


def run_key(name: str, params: Params, device: torch.device) -> str:
    """Everything that shapes the weights: a checkpoint of any other run is not gone on from."""
    block, package = params.variant(name), Path(recurlm.__file__).parent
    facts = {
        "variant": {name: block.model_dump()},
        "train": params.train.model_dump(exclude={"checkpoint_seconds"}),
        "torch": torch.__version__,
        "device": str(device),
        "precision": precision(params.train.precision, device),
        "threads": torch.get_num_threads(),
    }
    code = ["training", "evaluation", "model.py", "tokens/batches.py", "variants/base.py"]
    code += sorted({f"variants/{block.cell}.py", f"variants/{name}.py"})
    return key_of(facts, [Path("data/tokens/manifest.json"), *(package / file for file in code)])


def stop_on_signals() -> Callable[[], bool]:
    """Let SIGINT and SIGTERM end the run after the step that is under way."""
    received: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: received.append(number))
    return lambda: bool(received)


def write_curve(path: Path, curve: list[Point]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(Point._fields)
        rows.writerows(curve)


def timings(folder: Path, run: Trained, device: torch.device) -> dict[str, Any]:
    tokens = run.curve[-1].tokens
    return {
        "model_sha256": sha256_of(folder / "model.safetensors"),
        "seconds": run.seconds[-1],
        "tokens_per_second": tokens / run.training_seconds,
        "device": device.type,
        "precision": run.precision,
        "threads": torch.get_num_threads(),
        "points": [{"step": p.step, "seconds": s} for p, s in zip(run.curve, run.seconds, strict=True)],
    }


if __name__ == "__main__":
    exit_cleanly(main)
