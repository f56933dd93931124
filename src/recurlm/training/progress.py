"""Where a run stands, and how that is kept on disk."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from torch import Tensor
from torch.optim import Optimizer

from recurlm.model import LanguageModel
from recurlm.training.average import Average
from recurlm.training.checkpoint import (
    Checkpoint,
    Saved,
    load_optimizers,
    load_random_state,
    optimizer_tensors,
    random_state,
)
from recurlm.training.reader import Position
from recurlm.variants.base import State


class Point(NamedTuple):
    """One row of the learning curve; losses in nats per token."""

    step: int
    tokens: int
    train_loss: float  # mean since the point before
    validation_loss: float
    learning_rate: float


@dataclass
class Trained:
    """What a training run leaves, beside the weights."""

    curve: list[Point] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # from the start to each point of the curve
    training_seconds: float = 0.0  # without validation
    precision: str = "fp32"

    @property
    def best(self) -> Point:
        return min(self.curve, key=lambda point: point.validation_loss)


@dataclass
class Place:
    """Where a run stands: with the weights, the optimizers and torch's random state, all that the next step needs."""

    step: int = 0
    tokens: int = 0
    losses: list[float] = field(default_factory=list)  # of the steps since the last point of the curve
    elapsed: float = 0.0  # seconds
    state: State = field(default_factory=dict)
    best: dict[str, Tensor] = field(default_factory=dict)  # weights

    @property
    def train_loss(self) -> float:
        return math.fsum(self.losses) / len(self.losses)


def keep(
    checkpoint: Checkpoint,
    model: LanguageModel,
    updates: list[Optimizer],
    average: Average,
    run: Trained,
    place: Place,
    position: Position,
) -> None:
    """Write all of a run into its checkpoint."""
    parts: dict[str, Mapping[str, Tensor]] = {
        "model": model.state_dict(),
        "optimizer": optimizer_tensors(updates),
        "average": average.mean,
        "random": random_state(model.embedding.weight.device),
        "state": place.state,
        "best": place.best,
    }
    facts: dict[str, Any] = {
        "position": asdict(position),
        "step": place.step,
        "tokens": place.tokens,
        "losses": place.losses,
        "elapsed": place.elapsed,
        "averaged": average.count,
        "curve": run.curve,
        "seconds": run.seconds,
        "training_seconds": run.training_seconds,
    }
    checkpoint.save(
        {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}, facts
    )


def resume(
    saved: Saved, model: LanguageModel, updates: list[Optimizer], average: Average, run: Trained, place: Place
) -> Position:
    """Set a fresh run to where the checkpoint's stood, and say what it reads next."""
    device = model.embedding.weight.device
    facts = saved.facts
    model.load_state_dict(saved.part("model"))
    load_optimizers(updates, saved.part("optimizer"))
    load_random_state(device, saved.part("random"))
    average.mean = {name: value.to(device) for name, value in saved.part("average").items()}
    average.count = facts["averaged"]
    place.step, place.tokens, place.losses = facts["step"], facts["tokens"], facts["losses"]
    place.elapsed = facts["elapsed"]
    place.state = {name: value.to(device) for name, value in saved.part("state").items()}
    place.best = {name: value.to(device) for name, value in saved.part("best").items()}
    run.curve = [Point(*row) for row in facts["curve"]]
    run.seconds, run.training_seconds = facts["seconds"], facts["training_seconds"]
    return Position(**facts["position"])
