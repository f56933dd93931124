"""The training loop: truncated backpropagation through time over a stream, with the state carried from cut to cut."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from recurlm.config import Train
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.tokens.batches import Stream
from recurlm.training.checkpoint import (
    Checkpoint,
    Saved,
    load_optimizers,
    load_random_state,
    optimizer_tensors,
    random_state,
)
from recurlm.training.loss import linear_cross_entropy
from recurlm.training.recipe import optimizers, precision, rate
from recurlm.variants.base import State

Validate = Callable[[LanguageModel], float]  # nats per token of the validation split
Task = tuple[Int[Tensor, "batch time"], Int[Tensor, "batch time"]]  # inputs and targets
DIVERGED = 4.0  # times the loss of a model that finds every token equally likely

Report = Callable[[int, float], object]  # hears of each step's number of tokens and its loss


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


class StoppedError(Exception):
    """Somebody asked the run to end; its checkpoint is kept."""


def train(
    model: LanguageModel,
    stream: Stream,
    blank: int,
    recipe: Train,
    learning_rate: float,
    rest_learning_rate: float,
    validate: Validate,
    report: Report = lambda tokens, loss: None,
    checkpoint: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> Trained:
    """Train in place, on the model's device, and leave the weights that were best on the validation split.

    Args:
        blank: the token behind which a cloze model's inputs are hidden at random.
        learning_rate, rest_learning_rate: see recipe.optimizers.
        checkpoint: where the run goes on, if it was broken off, and is kept until the caller removes it.
        stop: asked after every step whether the run should end early.

    Raises:
        InputError: the loss is no longer a number, or far above that of a model that knows nothing.
        StoppedError: `stop` said so.
    """
    device = model.embedding.weight.device
    steps = count_steps(recipe, stream)
    points = validation_steps(recipe, steps)
    updates = optimizers(model, recipe, learning_rate, rest_learning_rate)
    run, place = Trained(precision=precision(recipe.precision, device)), Place()
    if checkpoint and (saved := checkpoint.load()):
        _resume(saved, model, updates, run, place)
        report(place.tokens, math.nan)
    before, started = place.elapsed, time.perf_counter()
    model.train()
    while place.step < steps:
        step_started = time.perf_counter()
        at = place.step % len(stream)
        window = stream[at].to(device)
        if at == 0:  # an epoch begins
            place.state = model.initial_state(len(window))
        state = forget(place.state, recipe.forget_share)
        share = rate(recipe.schedule, place.step, steps, recipe.warmup_share)
        _set_rates(updates, share)
        loss, place.state = _update(model, _task(model, window, blank, recipe.blank_share), state, recipe, updates, run)
        place.step += 1
        if not loss < DIVERGED * math.log(model.vocabulary_size):
            raise InputError(
                f"training diverged at step {place.step}: lower the variant's learning_rate in params.yaml"
            )
        place.tokens += window.shape[0] * (window.shape[1] - 1)
        place.losses.append(loss)
        report(place.tokens, loss)
        run.training_seconds += time.perf_counter() - step_started
        if place.step in points:
            validation_loss = validate(model)
            train_loss = sum(place.losses) / len(place.losses)
            run.curve.append(Point(place.step, place.tokens, train_loss, validation_loss, learning_rate * share))
            run.seconds.append(before + time.perf_counter() - started)
            place.losses.clear()
            if run.best.step == place.step:
                place.best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        stopped = stop()
        if checkpoint and (checkpoint.due or stopped):
            place.elapsed = before + time.perf_counter() - started
            _keep(checkpoint, model, updates, run, place)
        if stopped:
            raise StoppedError(f"stopped after step {place.step} of {steps}")
    model.load_state_dict(place.best)
    return run


def _keep(
    checkpoint: Checkpoint, model: LanguageModel, updates: list[torch.optim.Optimizer], run: Trained, place: Place
) -> None:
    parts = {
        "model": model.state_dict(),
        "optimizer": optimizer_tensors(updates),
        "random": random_state(model.embedding.weight.device),
        "state": place.state,
        "best": place.best,
    }
    tensors = {f"{part}/{name}": value for part, values in parts.items() for name, value in values.items()}
    facts = {
        "step": place.step,
        "tokens": place.tokens,
        "losses": place.losses,
        "elapsed": place.elapsed,
        "curve": run.curve,
        "seconds": run.seconds,
        "training_seconds": run.training_seconds,
    }
    checkpoint.save(tensors, facts)


def _resume(
    saved: Saved, model: LanguageModel, updates: list[torch.optim.Optimizer], run: Trained, place: Place
) -> None:
    device = model.embedding.weight.device
    model.load_state_dict(saved.part("model"))
    load_optimizers(updates, saved.part("optimizer"))
    load_random_state(device, saved.part("random"))
    facts = saved.facts
    place.step, place.tokens, place.losses = facts["step"], facts["tokens"], facts["losses"]
    place.elapsed = facts["elapsed"]
    place.state = {name: value.to(device) for name, value in saved.part("state").items()}
    place.best = {name: value.to(device) for name, value in saved.part("best").items()}
    run.curve = [Point(*row) for row in facts["curve"]]
    run.seconds, run.training_seconds = facts["seconds"], facts["training_seconds"]


def count_steps(recipe: Train, stream: Stream) -> int:
    """How many updates a run makes."""
    return max(1, round(recipe.epochs * len(stream)))


def validation_steps(recipe: Train, steps: int) -> set[int]:
    """After which steps the validation split is scored: evenly spread, the last one among them."""
    return {-(-steps * number // recipe.validations) for number in range(1, recipe.validations + 1)}


def _set_rates(updates: list[torch.optim.Optimizer], share: float) -> None:
    for update in updates:
        for group in update.param_groups:
            group.setdefault("full_rate", group["lr"])
            group["lr"] = group["full_rate"] * share


def _update(
    model: LanguageModel,
    task: Task,
    state: State,
    recipe: Train,
    updates: list[torch.optim.Optimizer],
    run: Trained,
) -> tuple[float, State]:
    """One step: forward, backward, clip, update. Returns the mean loss in nats per token and the state carried on."""
    inputs, targets = task
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=run.precision == "bf16"):
        features, after = model.features(inputs, state)
        loss = cross_entropy(model, features, targets)
    loss.backward()  # type: ignore[no-untyped-call]
    clip_grad_norm_(model.parameters(), recipe.gradient_clip)
    for update in updates:
        update.step()
        update.zero_grad()
    return loss.item(), carry(model, after)


def _task(model: LanguageModel, window: Int[Tensor, "batch window"], blank: int, blank_share: float) -> Task:
    """Inputs and targets: the next token, or for a cloze model the token itself, some of the others hidden.

    A blank that is to be filled may stand beside another blank: a cloze model has to know what a hidden neighbour
    looks like, so a share of its inputs is replaced by `<blank>`. Its targets stay.
    """
    if model.causal:
        return window[:, :-1], window[:, 1:]
    tokens = window[:, :-1]
    hidden = torch.rand(tokens.shape).to(tokens.device) < blank_share  # drawn on the CPU: the same on any device
    return tokens.masked_fill(hidden, blank), tokens


def forget(state: State, share: float) -> State:
    """Zero the state of a random share of the rows, as it is where a document begins.

    A state that is only ever carried on has never been zero since the weights were random: the model goes astray where
    a text begins, and the further the longer the text.
    """
    rows = len(next(iter(state.values())))
    kept = torch.rand(rows) >= share  # drawn on the CPU: the same on any device
    return {name: value * kept.to(value)[:, None] for name, value in state.items()}


def carry(model: LanguageModel, after: State) -> State:
    """The state for the next window, cut off from this one's graph. What comes from the right starts from zero."""
    return {
        name: torch.zeros_like(value, dtype=torch.float32)
        if not model.causal and name.startswith("right.")
        else value.detach().float()
        for name, value in after.items()
    }


def cross_entropy(
    model: LanguageModel, features: Float[Tensor, "batch time width"], targets: Int[Tensor, "batch time"]
) -> Float[Tensor, ""]:
    """Mean nats per token."""
    decoder = model.decoder
    return linear_cross_entropy(features.flatten(0, 1), decoder.weight, decoder.bias, targets.flatten())
