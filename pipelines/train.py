"""Stage train@<variant>: a fresh model → the weights that were best on the validation split.

Inputs:  data/tokens/, sections `train` and `variants.<variant>` of params.yaml
Outputs: data/models/<variant>/ (model.safetensors, model.json, curve.csv)
         data/timings/train-<variant>.json (a measurement of this machine: DVC does not hash it)
Command: python pipelines/train.py <variant>
"""

from __future__ import annotations

import csv
import os
import sys
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from recurlm import config, model
from recurlm.errors import InputError, exit_cleanly
from recurlm.evaluation.perplexity import score
from recurlm.model import LanguageModel
from recurlm.storage import sha256_of, whole_folder, write_json
from recurlm.tokens.batches import Stream
from recurlm.tokens.files import open_tokens
from recurlm.training.loop import Point, Trained, count_steps, train
from recurlm.training.memory import keep_freed_memory

# Of validation during training: faster than the stage evaluate, and near it.
SECTION_TOKENS, WARMUP_TOKENS, SECTIONS = 1024, 64, 64


def main() -> None:
    if len(sys.argv) != 2:
        raise InputError("which variant? python pipelines/train.py VARIANT")
    name, params = sys.argv[1], config.load()
    block, recipe = params.variant(name), params.train
    training, validation = (open_tokens(Path("data/tokens"), split) for split in ("train", "validation"))
    if validation.counts["tokens"] == 0:
        raise InputError("data/tokens: the validation split has no tokens: add text, or give it a larger share")
    stream = Stream(training.ids, recipe.batch_size, recipe.sequence_length)

    keep_freed_memory()
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # without it, CUDA's sums differ from run to run
    torch.use_deterministic_algorithms(True)
    # Nothing here reads memory that it has not written, and filling it took 13 % of a step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.manual_seed(recipe.seed)
    device = model.best_device(recipe.device)
    network = model.build(name, block, training.manifest["vocabulary_size"]).to(device)
    blank = training.manifest["special"]["blank"]
    steps = count_steps(recipe, stream)
    every = 0.1 if sys.stderr.isatty() else 10  # a bar that moves on a terminal, a line now and then elsewhere
    total = recipe.batch_size * recipe.sequence_length * steps
    with tqdm(total=total, desc=f"train {name}", unit="token", unit_scale=True, mininterval=every) as bar:

        def progress(tokens: int, loss: float) -> None:
            bar.set_postfix_str(f"loss {loss:.3f}", refresh=False)
            bar.update(tokens - bar.n)

        def validate(network: LanguageModel) -> float:
            nats, count = score(network, validation.ids, validation.starts, SECTION_TOKENS, WARMUP_TOKENS, SECTIONS)
            return nats / count

        rates = block.learning_rate, block.rest_learning_rate
        run = train(network, stream, blank, recipe, *rates, validate, progress)

    folder = Path("data/models") / name
    with whole_folder(folder) as partial:
        model.save(partial, network, name, block)
        write_curve(partial / "curve.csv", run.curve)
    write_json(Path("data/timings") / f"train-{name}.json", timings(folder, run, device))


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
