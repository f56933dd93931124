"""The training loop: truncated backpropagation through time over a stream, with the state carried from cut to cut."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from statistics import fmean

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils import clip_grad_norm_

from recurlm.config import ModelConfig, TrainConfig
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.training.batches import BatchIterator, Stream
from recurlm.training.checkpoint import Checkpoint
from recurlm.training.distributed import ALONE, Workers
from recurlm.training.loss import linear_cross_entropy, sampled_cross_entropy
from recurlm.training.machine import EVALUATION, out_of_memory_is_bad_input
from recurlm.training.optimizer import lr_scale, optimizers, precision, set_lr
from recurlm.training.regularization import WeightAverage, activation_penalty, weight_drop
from recurlm.training.state import EvalPoint, LogPoint, TrainResult, TrainState
from recurlm.variants.base import mask_state

Evaluate = Callable[[LanguageModel], float]  # nats per token of the validation split, or of a sample of it
OnStep = Callable[[int, int, float], object]  # steps and tokens so far, and the loss; NaN where a checkpoint was loaded
OnLog = Callable[[LogPoint], object]
OnEvaluation = Callable[[EvalPoint], object]
Special = dict[str, int]  # the ids of the tokens "bos" and "mask"
DIVERGED = 4.0  # times the loss of a model that finds every token equally likely


class StoppedError(Exception):
    """Somebody asked the run to end; its checkpoint is kept."""


def train(
    model: LanguageModel,
    stream: Stream,
    special: Special,
    config: TrainConfig,
    model_config: ModelConfig,
    evaluate: Evaluate,
    on_step: OnStep = lambda step, tokens, loss: None,
    checkpoint: Checkpoint | None = None,
    stop: Callable[[], bool] = lambda: False,
    clock: Callable[[], float] | None = None,
    evaluate_sample: Evaluate | None = None,
    on_log: OnLog = lambda point: None,
    on_evaluation: OnEvaluation = lambda point: None,
    workers: Workers = ALONE,
) -> TrainResult:
    """Train in place, on the model's device, and leave the weights that were best on the validation split.

    Args:
        special: `bos` begins each document; `mask` replaces inputs of a cloze model.
        model_config: the variant's learning rates and its weight drop.
        checkpoint: loaded if it holds this run, saved on the way; the caller removes it.
        stop: asked after every step whether the run should end early.
        clock: progress from 0 to 1, in place of the tokens that were read: for a run against time.
        evaluate_sample: scores a small part of the validation split, for the log; the weights that are kept do not
            depend on it.
        on_log: called in the first process with each row of the log as soon as there is one. After a kill, rows since
            the last checkpoint come once more.
        on_evaluation: the same for each row of the learning curve.
        workers: the processes that train; each of them calls this function, with the whole stream.

    Raises:
        InputError: the loss is no longer a number, or far above that of a model that knows nothing; or memory is short.
        StoppedError: `stop` said so.
    """
    workers.join(model, stream.batch_size)
    total = count_tokens(config, stream)
    state = TrainState(
        model,
        optimizers(model, config.optimizer, model_config.muon_lr, model_config.adamw_lr, workers),
        WeightAverage(model, config.regularization),
        BatchIterator(stream),
        TrainResult(precision=precision(config.precision, model.embedding.weight.device)),
        workers=workers,
    )
    if checkpoint and (saved := checkpoint.load()):
        state.load_state_dict(saved)
        on_step(state.step, state.tokens, math.nan)
    before, started = state.elapsed, time.perf_counter()
    model.train()

    def progress() -> float:
        return min(1.0, clock() if clock else state.tokens / total)

    def seconds() -> float:
        return before + time.perf_counter() - started

    while (done := progress()) < 1:
        step_started = time.perf_counter()
        window = state.batches.peek()
        step_tokens = window[:, 1:].numel()
        scale = lr_scale(config.schedule, done, step_tokens / total)
        set_lr(state.optimizers, scale)
        with out_of_memory_is_bad_input(config.data.batch_size):
            loss = train_step(state, window, special, config, model_config.weight_drop)
        state.step += 1
        if not loss < DIVERGED * math.log(model.vocab_size):
            raise InputError(
                f"training diverged at step {state.step}: lower the variant's muon_lr and adamw_lr in params.yaml"
            )
        state.batches.advance()
        state.average.update()
        state.tokens += step_tokens
        state.losses.append(loss)
        state.unlogged.append(loss)
        on_step(state.step, state.tokens, loss)
        state.result.training_seconds += time.perf_counter() - step_started
        if eval_due(config.log.points, len(state.result.log), progress()):
            sampled = sum(point.validation_loss is not None for point in state.result.log)
            due = eval_due(config.log.evals, sampled, progress())
            with out_of_memory_is_bad_input(config.evaluation.batch_size, EVALUATION):
                _log(state, evaluate_sample if due else None, model_config.muon_lr * scale)
            state.result.seconds[state.step] = seconds()
            if workers.first:
                on_log(state.result.log[-1])
        if eval_due(config.evaluation.num_evals, len(state.result.curve), progress()):
            with out_of_memory_is_bad_input(config.evaluation.batch_size, EVALUATION):
                _evaluate(state, evaluate, model_config.muon_lr * scale)
            state.result.seconds[state.step] = seconds()
            if workers.first:
                on_evaluation(state.result.curve[-1])
        stopped, save_due = workers.any(stop(), checkpoint is not None and checkpoint.due)
        if checkpoint and (save_due or stopped):
            state.elapsed = seconds()
            checkpoint.save(state.state_dict())
        if stopped:
            raise StoppedError(f"stopped after step {state.step}, with {progress():.0%} of the run done")
    model.load_state_dict(state.best)
    return state.result


def train_step(
    state: TrainState,
    window: Int[Tensor, "batch window"],
    special: Special,
    config: TrainConfig,
    weight_drop_p: float,
) -> float:
    """Forward, backward, clip, update; the recurrent state goes on.

    Returns:
        The mean cross-entropy in nats per token (see `cross_entropy`), penalties apart.
    """
    model, data, device, workers = state.model, config.data, state.device, state.workers
    own = workers.rows(window)
    objective, regularization = objective_of(model), config.regularization
    if state.batches.epoch_begins:
        state.recurrent = model.initial_state(len(own))
    # Drawn on the CPU and for the whole batch: the same on any device and in any number of processes. A state that is
    # only ever carried on has never been zero since the weights were random, and the model would go astray where a text
    # begins.
    keep = workers.rows(torch.rand(len(window)) >= data.state_reset_prob)
    recurrent = mask_state(state.recurrent, keep.to(device))
    step_inputs, step_targets = objective.inputs_and_targets(window.to(device), special["mask"], data.mask_prob)
    inputs, targets = workers.rows(step_inputs), workers.rows(step_targets)
    reset = resets_at(own[:, :-1], special["bos"]) if data.reset_at_bos else None
    matrices = model.recurrence.recurrent_matrices() if weight_drop_p else []
    with weight_drop(matrices, weight_drop_p):
        with torch.autocast(device.type, torch.bfloat16, enabled=state.result.precision == "bf16"):
            y, after = model.read(inputs, recurrent, None if reset is None else reset.to(device))
            dropped = model.output_dropout(y)
            loss = cross_entropy(model, model.projection(dropped), targets, config.sampled_softmax, step_targets)
        penalty = activation_penalty(y, dropped, regularization.ar, regularization.tar)
        share = len(own) / len(window)  # of the step's mean
        ((loss + penalty) * share).backward()  # type: ignore[no-untyped-call]
    step_loss = workers.sum_gradients(model, loss * share)
    clip_grad_norm_(model.parameters(), config.optimizer.max_grad_norm)
    for optimizer in state.optimizers:
        optimizer.step()
        optimizer.zero_grad()
    state.recurrent = objective.detach_state(model, after)
    return step_loss


def resets_at(tokens: Int[Tensor, "batch time"], bos: int) -> Bool[Tensor, "batch time"] | None:
    """Where documents begin; None where none does, which lets the fused kernels run."""
    reset = tokens == bos
    return reset if reset.any() else None


def cross_entropy(
    model: LanguageModel,
    features: Float[Tensor, "batch time width"],
    targets: Int[Tensor, "batch time"],
    negatives: int,
    step_targets: Int[Tensor, "step_batch time"] | None = None,
) -> Float[Tensor, ""]:
    """Mean nats per token; with `negatives` the estimate of a sampled softmax, none of them in `step_targets`."""
    x, decoder = features.flatten(0, 1), model.decoder
    if negatives:
        seen = None if step_targets is None else step_targets.flatten()
        return sampled_cross_entropy(x, decoder.weight, decoder.bias, targets.flatten(), negatives, seen)
    return linear_cross_entropy(x, decoder.weight, decoder.bias, targets.flatten())


def _log(state: TrainState, evaluate_sample: Evaluate | None, learning_rate: float) -> None:
    validation_loss = None
    if evaluate_sample:
        with state.average.applied():
            validation_loss = evaluate_sample(state.model)
    point = LogPoint(state.step, state.tokens, fmean(state.unlogged), validation_loss, learning_rate)
    state.result.log.append(point)
    state.unlogged.clear()


def _evaluate(state: TrainState, evaluate: Evaluate, learning_rate: float) -> None:
    result = state.result
    with state.average.applied():
        point = EvalPoint(state.step, state.tokens, fmean(state.losses), evaluate(state.model), learning_rate)
        result.curve.append(point)
        state.losses.clear()
        if result.best is point:
            state.best = {name: value.detach().clone() for name, value in state.model.state_dict().items()}
    state.average.on_evaluation([point.validation_loss for point in result.curve])


def count_tokens(config: TrainConfig, stream: Stream) -> int:
    """How many tokens a run reads, at least; its last window is read whole."""
    return max(1, round(config.data.epochs * stream.tokens))


def eval_due(num_evals: int, done: int, progress: float) -> bool:
    """Whether the validation split is to be scored now: so often in a run, evenly spread, and after the last step."""
    return progress >= 1 or progress * num_evals >= done + 1
