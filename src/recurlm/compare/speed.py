"""Speed on this machine: of training, variant after variant in turns, and of generation by onnxruntime."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from recurlm import config, model
from recurlm.compare.runs import Settings, Texts
from recurlm.compare.settings import Compare, Plan
from recurlm.export.bundle import write_all
from recurlm.objective import objective_of
from recurlm.progress import say
from recurlm.storage import read_json, write_json
from recurlm.training.batches import BatchIterator
from recurlm.training.loop import train_step
from recurlm.training.optimizer import optimizers, precision
from recurlm.training.regularization import WeightAverage
from recurlm.training.state import TrainResult, TrainState
from recurlm.verify.length import generation_speed

START, EXPORT = 8.0, 30.0  # seconds: of a process until it trains, and of a variant's export and its timing
MIDDLE: Settings = {
    "muon_lr": 0.005,
    "adamw_lr": 0.005,
    "dropout": 0.1,
    "weight_decay": 0.1,
    "state_reset_prob": 0.05,
}


def training_speeds(plans: Sequence[Plan], texts: Texts, rounds: int, seconds: float) -> dict[str, float]:
    """Tokens a second of each variant's training steps: the median over rounds, in each of which all take turns."""
    steps = {plan.variant: _stepper(plan, texts) for plan in plans}
    for step in steps.values():
        step()  # allocates
    rates: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            started, tokens = time.perf_counter(), 0
            while tokens == 0 or time.perf_counter() - started < seconds:
                tokens += step()
            rates[name].append(tokens / (time.perf_counter() - started))
    return {name: statistics.median(measured) for name, measured in rates.items()}


def _stepper(plan: Plan, texts: Texts) -> Callable[[], int]:
    """A call that trains one step and returns its tokens."""
    block, train = plan.configure(MIDDLE, 1, 1.0, 1)
    torch.manual_seed(1)
    network = model.build(plan.variant, block, texts.vocab_size).to(model.best_device(train.device))
    network.train()
    state = TrainState(
        network,
        optimizers(network, train.optimizer, block.muon_lr, block.adamw_lr),
        WeightAverage(network, train.regularization),
        BatchIterator(texts.stream(plan, 1)),
        TrainResult(precision=precision(train.precision, network.embedding.weight.device)),
    )

    def step() -> int:
        window = state.batches.peek()
        train_step(state, window, texts.train.manifest["special"], train, block.weight_drop)
        state.batches.advance()
        return window[:, 1:].numel()

    return step


def speeds(compare: Compare, plans: Sequence[Plan], export: config.Export) -> dict[str, Any]:
    """Speeds of all variants, measured once for these models and settings, and kept where DVC does not hash them."""
    path = compare.folder.parents[1] / f"timings/compare-{compare.name}.json"
    folders = {plan.variant: _first(compare, plan.variant) for plan in plans}
    models = {name: read_json(folder / "model.json")["sha256"] for name, folder in folders.items()}
    key = {"threads": torch.get_num_threads(), "speed": compare.speed.model_dump(), "models": models}
    if path.is_file() and (kept := read_json(path)).items() >= key.items():
        return dict(kept["variants"])
    say("compare: measuring the speed of training and of generation")
    texts, settings = Texts(compare.folder / "tokens"), compare.speed
    training = training_speeds(plans, texts, settings.rounds, settings.seconds)
    speeds = {
        name: {"training_tokens_per_second": training[name]} | _generation(folders[name], texts, export)
        for name in models
    }
    write_json(path, key | {"variants": speeds})
    return speeds


def _generation(folder: Path, texts: Texts, export: config.Export) -> dict[str, float]:
    """Microseconds a token of generator.onnx, one sequence on one thread."""
    network, manifest = model.load(folder), texts.train.manifest
    name, settings = (
        read_json(folder / "model.json")["variant"],
        export.model_copy(update={"precisions": ("fp32", "int8")}),
    )
    microseconds = {}
    with tempfile.TemporaryDirectory(dir=folder.parents[2]) as graphs:
        for precision_, _ in write_all(Path(graphs), name, network, manifest, settings, texts.train.ids):
            rate = generation_speed(Path(graphs) / precision_, objective_of(network))["tokens_per_second"]
            microseconds[f"generation_us_{precision_}"] = 1e6 / rate
    return microseconds


def _first(compare: Compare, variant: str) -> Path:
    return compare.folder / "models" / variant / str(compare.train.seeds[0])


def estimate(compare: Compare, plans: Sequence[Plan], texts: Texts) -> Mapping[str, float]:
    """Seconds that each variant will take, from a short run: its trials, its seeds, and their scores."""
    rates = training_speeds(plans, texts, 1, compare.speed.seconds)
    tuning, training = compare.tune, compare.train
    read = tuning.trials * tuning.tokens + len(training.seeds) * training.tokens
    manifest = texts.train.manifest["splits"]
    scored = (tuning.trials + len(training.seeds) * training.num_evals) * manifest["validation"]["tokens"]
    scored += len(training.seeds) * manifest["test"]["tokens"]
    # A score is the way forward alone, about a third of a step.
    return {name: (read + scored / 3) / rate + 3 * START + EXPORT for name, rate in rates.items()}
