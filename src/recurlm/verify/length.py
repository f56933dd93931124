"""Time of training and generation by sequence length, and of a bundle: measurements of this machine, not results."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recurlm import config, model
from recurlm.config import Params, Sampling, TrainConfig
from recurlm.model import LanguageModel
from recurlm.objective import Objective, objective_of
from recurlm.storage import sha256_of
from recurlm.training.loop import cross_entropy
from recurlm.training.optimizer import precision
from recurlm.verify.sessions import Graphs

TOKENS, RUNS = 500, 5  # of a bundle's speed


def time_by_length(name: str, params: Params, data: Path) -> dict[str, Any]:
    """The timings of a trained model, with the hash of its weights."""
    trained = model.load(data / "models" / name).to(model.best_device("auto"))
    stamp = {"model_sha256": sha256_of(data / "models" / name / "model.safetensors")}
    return stamp | measure(trained, params.train, params.verify.speed)


def measure(model: LanguageModel, train_config: TrainConfig, settings: config.Speed) -> dict[str, Any]:
    """Seconds by length. `growth` is the exponent p of seconds ∝ lengthᵖ: 1 where the time is linear in the length.

    A training step is the forward and backward pass of a batch in the precision of training; the optimizer's cost does
    not depend on the length. Generation is greedy, of one sequence, by `step`; a cloze model has none. Times are
    PyTorch's: those of onnxruntime are in generate-<variant>.json.
    """
    kind = precision(train_config.precision, model.embedding.weight.device)
    batch = settings.batch_size
    training = _timings(
        settings.training_tokens, batch, settings.repeats, lambda length: _train(model, batch, length, kind)
    )
    lengths = () if objective_of(model).both_sides else settings.generated_tokens
    generation = _timings(lengths, 1, 1, lambda length: _generate(model, length))
    return {
        "device": model.embedding.weight.device.type,
        "threads": torch.get_num_threads(),
        "precision_of_training": kind,
        "training_step": training,
        "training_growth": growth(training),
        "generation": generation,
        "generation_growth": growth(generation),
    }


def _timings(
    lengths: Sequence[int], batch_size: int, repeats: int, run: Callable[[int], object]
) -> list[dict[str, Any]]:
    """The median of `repeats` runs at each length, after a warm-up run."""
    rows = []
    if lengths:
        run(min(lengths))
        _synchronize()
    for length in lengths:
        median = _seconds(partial(run, length), repeats)
        rate = batch_size * length / median
        rows.append({"tokens": length, "rows": batch_size, "seconds": median, "tokens_per_second": rate})
    return rows


def _seconds(run: Callable[[], object], repeats: int) -> float:
    """The median over some runs, on a GPU until it is done."""
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        run()
        _synchronize()
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds)


def _train(model: LanguageModel, batch_size: int, length: int, kind: str) -> None:
    """One forward and backward pass in training mode, which cuDNN's backward pass needs."""
    device = model.embedding.weight.device
    tokens = torch.arange(batch_size * (length + 1), device=device).view(batch_size, -1) % model.vocab_size
    training, required = model.training, [weight.requires_grad for weight in model.parameters()]
    model.train().requires_grad_(True)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16"):
            features, _ = model.features(tokens[:, :-1], model.initial_state(batch_size))
            loss = cross_entropy(model, features, tokens[:, 1:], negatives=0)
        torch.autograd.grad(loss, list(model.parameters()))
    finally:
        model.train(training)
        for weight, requires_grad in zip(model.parameters(), required, strict=True):
            weight.requires_grad_(requires_grad)


@torch.no_grad()
def _generate(model: LanguageModel, length: int) -> None:
    state = model.initial_state(1)
    token = torch.zeros(1, dtype=torch.int64, device=model.embedding.weight.device)
    for _ in range(length):
        logits, state = model.step(token, state)
        token = logits.argmax(dim=-1)


def _synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def growth(rows: Sequence[dict[str, Any]]) -> float | None:
    """The slope of log seconds over log length; None with fewer than two lengths."""
    if len({row["tokens"] for row in rows}) < 2:
        return None
    x, y = (np.log([row[name] for row in rows]) for name in ("tokens", "seconds"))
    return float(np.polyfit(x, y, 1)[0])


def generation_speed(folder: Path, objective: Objective) -> dict[str, Any]:
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
    speed = TOKENS / _seconds(run, RUNS)
    return {
        "tokens_per_second": None if fills else speed,
        "filled_per_second": speed if fills else None,
        "threads": 1,
        "batch": 1,
    }
