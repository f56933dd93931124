"""The training loop: truncated backpropagation through time over a stream, with the state carried from cut to cut."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from functools import partial

from torch.optim import Optimizer

from recurlm.config import Train, Variant
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.tokens.batches import Stream
from recurlm.training.average import Average
from recurlm.training.checkpoint import Checkpoint
from recurlm.training.memory import within_memory
from recurlm.training.progress import Place, Point, Trained, keep, resume
from recurlm.training.reader import Reader
from recurlm.training.recipe import optimizers, precision, rate
from recurlm.training.step import forget, make_task, update

Validate = Callable[[LanguageModel], float]  # nats per token of the validation split
Report = Callable[[int, float], object]  # hears of each step's number of tokens and its loss
Special = dict[str, int]  # the ids of the tokens "bos" and "mask"
DIVERGED = 4.0  # times the loss of a model that finds every token equally likely


class StoppedError(Exception):
    """Somebody asked the run to end; its checkpoint is kept."""


def train(
    model: LanguageModel,
    stream: Stream,
    special: Special,
    recipe: Train,
    block: Variant,
    validate: Validate,
    report: Report = lambda tokens, loss: None,
    checkpoint: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] | None = None,
) -> Trained:
    """Train in place, on the model's device, and leave the weights that were best on the validation split.

    Args:
        special: `start` begins each document; `blank` is what hides a cloze model's inputs at random.
        block: the variant's learning rates and its dropout.
        checkpoint: where the run goes on, if it was broken off, and is kept until the caller removes it.
        stop: asked after every step whether the run should end early.
        clock: says which share of the run is over, in place of the tokens that were read: for a run against time.

    Raises:
        InputError: the loss is no longer a number, or far above that of a model that knows nothing; or memory is short.
        StoppedError: `stop` said so.
    """
    device = model.embedding.weight.device
    total = count_tokens(recipe, stream)
    updates = optimizers(model, recipe, block.muon_lr, block.adamw_lr)
    average = Average(model, recipe.average, recipe.ema_decay, recipe.asgd_patience)
    run, place, reader = Trained(precision=precision(recipe.precision, device)), Place(), Reader(stream, recipe)
    if checkpoint and (saved := checkpoint.load()):
        reader.position = resume(saved, model, updates, average, run, place)
        report(place.tokens, math.nan)
    before, started = place.elapsed, time.perf_counter()
    model.train()

    def over() -> float:
        return min(1.0, clock() if clock else place.tokens / total)

    while (share := over()) < 1:
        step_started = time.perf_counter()
        window, rows, epoch_begins = reader.read(share)
        if epoch_begins:
            place.state = model.initial_state(stream.batch_size)
        state = forget({name: value[rows] for name, value in place.state.items()}, recipe.state_reset_prob)
        begins = (window[:, :-1] == special["bos"]) & recipe.reset_at_bos
        task = make_task(model, window.to(device), special["mask"], recipe.mask_prob)
        lr_scale = rate(recipe.schedule, share, task[0].numel() / total, recipe.warmup_ratio)
        _set_rates(updates, lr_scale)
        step = partial(update, model, task, begins, state, recipe, block, updates, run.precision)
        loss, after = within_memory(step, len(window), recipe.batch_size)
        place.step += 1
        if not loss < DIVERGED * math.log(model.vocab_size):
            raise InputError(
                f"training diverged at step {place.step}: lower the variant's muon_lr and adamw_lr in params.yaml"
            )
        for name, value in after.items():
            place.state[name][rows] = value
        reader.advance()
        average.update()
        place.tokens += task[0].numel()
        place.losses.append(loss)
        report(place.tokens, loss)
        run.training_seconds += time.perf_counter() - step_started
        if validation_due(recipe.num_evals, len(run.curve), over()):
            with average.applied():
                _validate(model, validate, run, place, block.muon_lr * lr_scale)
            run.seconds.append(before + time.perf_counter() - started)
            average.heard([point.validation_loss for point in run.curve])
        stopped = stop()
        if checkpoint and (checkpoint.due or stopped):
            place.elapsed = before + time.perf_counter() - started
            keep(checkpoint, model, updates, average, run, place, reader.position)
        if stopped:
            raise StoppedError(f"stopped after step {place.step}, with {over():.0%} of the run done")
    model.load_state_dict(place.best)
    return run


def _validate(model: LanguageModel, validate: Validate, run: Trained, place: Place, learning_rate: float) -> None:
    point = Point(place.step, place.tokens, place.train_loss, validate(model), learning_rate)
    run.curve.append(point)
    place.losses.clear()
    if run.best is point:
        place.best = {name: value.detach().clone() for name, value in model.state_dict().items()}


def count_tokens(recipe: Train, stream: Stream) -> int:
    """How many tokens a run reads, at least; its last window is read whole."""
    return max(1, round(recipe.epochs * stream.tokens))


def validation_due(num_evals: int, done: int, share: float) -> bool:
    """Whether the validation split is to be scored now: so often in a run, evenly spread, and after the last step."""
    return share >= 1 or share * num_evals >= done + 1


def _set_rates(updates: list[Optimizer], share: float) -> None:
    for optimizer in updates:
        for group in optimizer.param_groups:
            group.setdefault("full_rate", group["lr"])
            group["lr"] = group["full_rate"] * share
