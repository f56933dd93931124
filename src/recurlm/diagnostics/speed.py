"""How time grows with the length of a sequence, in training and in generation: measurements of this machine."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from recurlm import config
from recurlm.config import TrainConfig
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.training.loop import cross_entropy
from recurlm.training.optimizer import precision


def measure(model: LanguageModel, train_config: TrainConfig, settings: config.Speed) -> dict[str, Any]:
    """Seconds by length. `growth` is the exponent p of seconds ∝ lengthᵖ: 1 where a token costs the same anywhere.

    A training step is forward and backward over sequences of one length, side by side, in the precision of training,
    without the update, whose cost doesn't depend on the length. Generation is greedy, of one sequence, by `step`; a
    cloze model has none. Times are PyTorch's: those of what ships stand in generate-<variant>.json.
    """
    kind = precision(train_config.precision, model.embedding.weight.device)
    rows = settings.batch_size
    training = _rows(settings.training_tokens, rows, settings.repeats, lambda length: _train(model, rows, length, kind))
    lengths = () if objective_of(model).both_sides else settings.generated_tokens
    generation = _rows(lengths, 1, 1, lambda length: _generate(model, length))
    return {
        "device": model.embedding.weight.device.type,
        "threads": torch.get_num_threads(),
        "precision_of_training": kind,
        "training_step": training,
        "training_growth": growth(training),
        "generation": generation,
        "generation_growth": growth(generation),
    }


def _rows(lengths: Sequence[int], rows: int, repeats: int, run: Callable[[int], object]) -> list[dict[str, Any]]:
    """The median of `repeats` runs at each length, after one that warms up."""
    found = []
    if lengths:
        run(min(lengths))
    for length in lengths:
        seconds = []
        for _ in range(repeats):
            started = time.perf_counter()
            run(length)
            seconds.append(time.perf_counter() - started)
        median = statistics.median(seconds)
        found.append({"tokens": length, "rows": rows, "seconds": median, "tokens_per_second": rows * length / median})
    return found


def _train(model: LanguageModel, rows: int, length: int, kind: str) -> None:
    device = model.embedding.weight.device
    tokens = torch.arange(rows * (length + 1), device=device).view(rows, -1) % model.vocab_size
    wanted = [weight.requires_grad for weight in model.parameters()]
    model.requires_grad_(True)
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=kind == "bf16"):
            features, _ = model.features(tokens[:, :-1], model.initial_state(rows))
            loss = cross_entropy(model, features, tokens[:, 1:], negatives=0)
        torch.autograd.grad(loss, list(model.parameters()))
    finally:
        for weight, want in zip(model.parameters(), wanted, strict=True):
            weight.requires_grad_(want)


@torch.no_grad()
def _generate(model: LanguageModel, length: int) -> None:
    state = model.initial_state(1)
    token = torch.zeros(1, dtype=torch.int64, device=model.embedding.weight.device)
    for _ in range(length):
        logits, state = model.step(token, state)
        token = logits.argmax(dim=-1)


def growth(rows: Sequence[dict[str, Any]]) -> float | None:
    """The slope of log seconds over log length; None with fewer than two lengths."""
    if len({row["tokens"] for row in rows}) < 2:
        return None
    x, y = (np.log([row[name] for row in rows]) for name in ("tokens", "seconds"))
    return float(np.polyfit(x, y, 1)[0])
