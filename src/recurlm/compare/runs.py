"""One training run of the comparison, a trial's or a seed's: killed and started again, it goes on."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from recurlm import model
from recurlm.compare.settings import Plan
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import score
from recurlm.model import LanguageModel
from recurlm.storage import sha256_of
from recurlm.tokens.files import TokenFile, open_tokens
from recurlm.training.batches import Stream
from recurlm.training.checkpoint import Checkpoint, run_key
from recurlm.training.loop import train
from recurlm.training.run import TrainingBar
from recurlm.training.state import TrainResult

Settings = dict[str, float]
Stop = Callable[[], bool]


class Texts:
    """The splits that training reads: a run of the comparison opens no others."""

    def __init__(self, folder: Path) -> None:
        self.train, self.validation = (open_tokens(folder, split) for split in ("train", "validation"))
        self.sha256 = sha256_of(folder / "manifest.json")

    @property
    def vocab_size(self) -> int:
        return int(self.train.manifest["vocab_size"])

    def stream(self, plan: Plan, seed: int) -> Stream:
        data = plan.train.data
        moving = seed if data.random_offset else None
        return Stream(self.train.ids, data.batch_size, data.sequence_length, seed=moving)


def key_of(plan: Plan, texts: Texts, **more: Any) -> str:
    """A hash of what shapes the weights of a variant's runs."""
    return run_key({"plan": plan.sha256, "torch": torch.__version__, "tokens": texts.sha256, **more}, [])


def run(
    plan: Plan,
    texts: Texts,
    settings: Settings,
    budget: Mapping[str, int],
    checkpoint: Path,
    label: str,
    stop: Stop = lambda: False,
) -> tuple[LanguageModel, TrainResult] | None:
    """Train from a seed, and return the weights best on validation with their curve; None if the run diverged.

    Args:
        budget: `seed`, `tokens` to train on, and `evals` of the validation split.
        checkpoint: a file, kept if `stop` says so or the process is killed, and then gone on from.
        label: of the progress bar.

    Raises:
        InputError: the text is too short, or memory is.
        StoppedError: `stop` said so.
    """
    seed, stream = budget["seed"], texts.stream(plan, budget["seed"])
    config = plan.configure(settings, seed, budget["tokens"] / stream.tokens, budget["evals"])
    torch.manual_seed(seed)
    network = model.build(plan.variant, config[0], texts.vocab_size).to(model.best_device(config[1].device))
    key = key_of(plan, texts, settings=settings, budget=dict(budget))
    saved = Checkpoint(checkpoint, key, config[1].checkpoint.every_seconds)
    special = texts.train.manifest["special"]

    def evaluate(network: LanguageModel) -> float:
        return nats_per_token(network, texts.validation, plan)

    try:
        with TrainingBar(label, config[1], stream, None) as bar:
            result = train(network, stream, special, config[1], config[0], evaluate, bar.update, saved, stop)
    except InputError as error:
        if not str(error).startswith("training diverged"):
            raise
        result = None
    saved.remove()
    return None if result is None or not math.isfinite(result.best.validation_loss) else (network, result)


def nats_per_token(network: LanguageModel, split: TokenFile, plan: Plan) -> float:
    """The validation loss, by the windows of `train.evaluation`."""
    windows = plan.train.evaluation
    sizes = (windows.window_tokens, windows.context_tokens, windows.batch_size)
    nats, tokens = score(network, split.ids, split.starts, *sizes)
    return nats / tokens
