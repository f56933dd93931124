"""All that a training run is made of, as one object that can be saved and loaded."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import Optimizer

from recurlm.model import LanguageModel
from recurlm.training.batches import BatchIterator, Cursor
from recurlm.training.checkpoint import Snapshot
from recurlm.training.distributed import ALONE, Workers
from recurlm.training.regularization import WeightAverage
from recurlm.variants.base import State


class EvalPoint(NamedTuple):
    """One row of the learning curve, at which the whole validation split is scored; losses in nats per token."""

    step: int
    tokens: int
    train_loss: float  # mean since the point before
    validation_loss: float
    learning_rate: float


class LogPoint(NamedTuple):
    """One row of the log, which has many more rows than the learning curve; losses in nats per token."""

    step: int
    tokens: int
    train_loss: float  # mean since the row before
    validation_loss: float | None  # on a sample of the validation split; None in most rows
    learning_rate: float


@dataclass
class TrainResult:
    """What a training run leaves, beside the weights."""

    curve: list[EvalPoint] = field(default_factory=list)
    log: list[LogPoint] = field(default_factory=list)
    seconds: dict[int, float] = field(default_factory=dict)  # from the start to a step of the curve or of the log
    training_seconds: float = 0.0  # without evaluation
    precision: str = "fp32"

    @property
    def best(self) -> EvalPoint:
        """The point with the least validation loss; one that is no number is worse than any that is."""
        return min(
            self.curve, key=lambda point: math.inf if math.isnan(point.validation_loss) else point.validation_loss
        )


@dataclass
class TrainState:
    """A run under way: everything that the next step needs."""

    model: LanguageModel
    optimizers: list[Optimizer]
    average: WeightAverage
    batches: BatchIterator
    result: TrainResult
    step: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)  # of the steps since the last point of the curve
    unlogged: list[float] = field(default_factory=list)  # the same since the last row of the log
    elapsed: float = 0.0  # seconds, at the last checkpoint
    recurrent: State = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)  # weights
    workers: Workers = ALONE

    @property
    def device(self) -> torch.device:
        return self.model.embedding.weight.device

    def state_dict(self) -> Snapshot:
        """Tensors under flat names, and the rest."""
        parts: dict[str, Mapping[str, Tensor]] = {
            "model": self.model.state_dict(),
            "optimizer": _optimizer_tensors(self.optimizers),
            "average": self.average.mean,
            "random": _random_state(self.device),
            "recurrent": self.workers.gather(self.recurrent, self.batches.stream.batch_size),
            "best": self.best,
        }
        values: dict[str, Any] = {
            "cursor": asdict(self.batches.cursor),
            "step": self.step,
            "tokens": self.tokens,
            "losses": self.losses,
            "elapsed": self.elapsed,
            "averaged": self.average.count,
            "unlogged": self.unlogged,
            "curve": self.result.curve,
            "log": self.result.log,
            "seconds": list(self.result.seconds.items()),
            "training_seconds": self.result.training_seconds,
        }
        tensors = {f"{part}/{name}": value for part, named in parts.items() for name, value in named.items()}
        return Snapshot(tensors, values)

    def load_state_dict(self, snapshot: Snapshot) -> None:
        """Set a fresh run to where the saved one stood, torch's random state included."""
        values = snapshot.values

        def on_device(part: str) -> dict[str, Tensor]:
            return {name: value.to(self.device) for name, value in snapshot.part(part).items()}

        self.model.load_state_dict(snapshot.part("model"))
        _load_optimizers(self.optimizers, snapshot.part("optimizer"))
        _load_random_state(self.device, snapshot.part("random"))
        self.average.mean, self.average.count = on_device("average"), values["averaged"]
        self.batches.cursor = Cursor(**values["cursor"])
        self.step, self.tokens, self.losses = values["step"], values["tokens"], values["losses"]
        self.elapsed = values["elapsed"]
        self.recurrent = {name: self.workers.rows(value) for name, value in on_device("recurrent").items()}
        self.best = on_device("best")
        self.result.curve = [EvalPoint(*row) for row in values["curve"]]
        self.result.log = [LogPoint(*row) for row in values["log"]]
        self.unlogged = values["unlogged"]
        self.result.seconds, self.result.training_seconds = dict(values["seconds"]), values["training_seconds"]


def _optimizer_tensors(optimizers: list[Optimizer]) -> dict[str, Tensor]:
    return {
        f"{number}.{parameter}.{name}": value
        for number, optimizer in enumerate(optimizers)
        for parameter, state in optimizer.state_dict()["state"].items()
        for name, value in state.items()
    }


def _load_optimizers(optimizers: list[Optimizer], tensors: Mapping[str, Tensor]) -> None:
    for number, optimizer in enumerate(optimizers):
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, parameter, name = key.split(".", 2)
            if int(owner) == number:
                state.setdefault(int(parameter), {})[name] = value
        optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def _random_state(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def _load_random_state(device: torch.device, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
