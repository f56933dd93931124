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
from recurlm.training.loss import linear_cross_entropy
from recurlm.training.recipe import optimizers, precision, rate
from recurlm.variants.base import State

Validate = Callable[[LanguageModel], float]  # nats per token of the validation split
Task = tuple[Int[Tensor, "batch time"], Int[Tensor, "batch time"]]  # inputs and targets
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


def train(
    model: LanguageModel,
    stream: Stream,
    blank: int,
    recipe: Train,
    learning_rate: float,
    rest_learning_rate: float,
    validate: Validate,
    report: Report = lambda tokens, loss: None,
) -> Trained:
    """Train in place, on the model's device, and leave the weights that were best on the validation split.

    Args:
        blank: the token behind which a cloze model's inputs are hidden at random.
        learning_rate, rest_learning_rate: see recipe.optimizers.

    Raises:
        InputError: the loss is no longer a number.
    """
    device = model.embedding.weight.device
    steps = count_steps(recipe, stream)
    points = validation_steps(recipe, steps)
    updates = optimizers(model, recipe, learning_rate, rest_learning_rate)
    run = Trained(precision=precision(recipe.precision, device))
    best: dict[str, Tensor] = {}
    losses: list[float] = []
    tokens, started = 0, time.perf_counter()
    model.train()
    state: State = {}
    for step in range(1, steps + 1):
        step_started = time.perf_counter()
        at = (step - 1) % len(stream)
        window = stream[at].to(device)
        if at == 0:  # an epoch begins
            state = model.initial_state(len(window))
        state = forget(state, recipe.forget_share)
        share = rate(recipe.schedule, step - 1, steps, recipe.warmup_share)
        _set_rates(updates, share)
        loss, state = _update(model, _task(model, window, blank, recipe.blank_share), state, recipe, updates, run)
        if not math.isfinite(loss):
            raise InputError(f"training diverged at step {step}: lower the variant's learning_rate in params.yaml")
        tokens += window.shape[0] * (window.shape[1] - 1)
        losses.append(loss)
        report(tokens, loss)
        run.training_seconds += time.perf_counter() - step_started
        if step in points:
            validation_loss = validate(model)
            run.curve.append(Point(step, tokens, sum(losses) / len(losses), validation_loss, learning_rate * share))
            run.seconds.append(time.perf_counter() - started)
            losses.clear()
            if run.best.step == step:
                best = {name: value.detach().clone() for name, value in model.state_dict().items()}
    model.load_state_dict(best)
    return run


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
