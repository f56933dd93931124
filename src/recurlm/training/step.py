"""One update of the weights: what a step reads, what it predicts, and what it is made to forget."""

from __future__ import annotations

from itertools import pairwise

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

from recurlm.config import Train, Variant
from recurlm.model import LanguageModel
from recurlm.training.loss import linear_cross_entropy, sampled_cross_entropy
from recurlm.training.regularize import activation_penalty, weight_drop
from recurlm.variants.base import State

Task = tuple[Int[Tensor, "batch time"], Int[Tensor, "batch time"]]  # inputs and targets


def update(
    model: LanguageModel,
    task: Task,
    begins: Bool[Tensor, "batch time"],
    state: State,
    recipe: Train,
    block: Variant,
    updates: list[Optimizer],
    precision: str,
    rows: int,
) -> tuple[float, State]:
    """One step: forward, backward, clip, update.

    Args:
        rows: how many of the task's rows are read.
        begins: on the CPU; where an input is the first of a document, and the state before it is therefore zero.

    Returns:
        The mean cross-entropy in nats per token (see `cross_entropy`), penalties apart, and the state to go on from.
    """
    inputs, targets = task[0][:rows], task[1][:rows]
    begins, state = begins[:rows], {name: value[:rows] for name, value in state.items()}
    matrices = model.recurrence.recurrent_matrices() if block.weight_drop else []
    with weight_drop(matrices, block.weight_drop):
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=precision == "bf16"):
            y, after = read(model, inputs, begins, state)
            dropped = model.output_dropout(y)
            loss = cross_entropy(model, model.projection(dropped), targets, recipe.sampled_softmax)
        penalty = activation_penalty(y, dropped, recipe.ar, recipe.tar)
        (loss + penalty).backward()  # type: ignore[no-untyped-call]
    clip_grad_norm_(model.parameters(), recipe.max_grad_norm)
    for optimizer in updates:
        optimizer.step()
        optimizer.zero_grad()
    return loss.item(), carry(model, after)


def cross_entropy(
    model: LanguageModel, features: Float[Tensor, "batch time width"], targets: Int[Tensor, "batch time"], sampled: int
) -> Float[Tensor, ""]:
    """Mean nats per token; with `sampled` above zero an estimate from so many tokens besides the targets."""
    x, decoder = features.flatten(0, 1), model.decoder
    if sampled:
        return sampled_cross_entropy(x, decoder.weight, decoder.bias, targets.flatten(), sampled)
    return linear_cross_entropy(x, decoder.weight, decoder.bias, targets.flatten())


def make_task(model: LanguageModel, window: Int[Tensor, "batch window"], blank: int, mask_prob: float) -> Task:
    """Inputs and targets: the next token, or for a cloze model the token itself, some of the others hidden.

    A blank that is to be filled may stand beside another blank: a cloze model has to know what a hidden neighbour
    looks like, so a share of its inputs is replaced by `<mask>`. Its targets stay.
    """
    if model.causal:
        return window[:, :-1], window[:, 1:]
    tokens = window[:, :-1]
    hidden = torch.rand(tokens.shape).to(tokens.device) < mask_prob  # drawn on the CPU: the same on any device
    return tokens.masked_fill(hidden, blank), tokens


def read(
    model: LanguageModel, inputs: Int[Tensor, "batch time"], begins: Bool[Tensor, "batch time"], state: State
) -> tuple[Float[Tensor, "batch time output"], State]:
    """The recurrence over a window, from a zero state wherever a document begins.

    The window is cut for all rows where one of them begins a document. A cloze model reads nothing from the right
    across such a cut.
    """
    cuts = [0, *(1 + begins[:, 1:].any(0).nonzero()[:, 0]).tolist(), inputs.shape[1]]
    parts = []
    for left, right in pairwise(cuts):
        fresh = begins[:, left].to(inputs.device)
        state = {name: value.masked_fill(fresh[:, None], 0) for name, value in onwards(model, state).items()}
        y, state = model.read(inputs[:, left:right], state)
        parts.append(y)
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1), state


def forget(state: State, share: float) -> State:
    """Zero the state of a random share of the rows, as it is where a document begins.

    A state that is only ever carried on has never been zero since the weights were random: the model goes astray where
    a text begins, and the further the longer the text.
    """
    rows = len(next(iter(state.values())))
    kept = torch.rand(rows) >= share  # drawn on the CPU: the same on any device
    return {name: value * kept.to(value)[:, None] for name, value in state.items()}


def carry(model: LanguageModel, after: State) -> State:
    """The state for the next window, cut off from this one's graph."""
    return {name: value.detach().float() for name, value in onwards(model, after).items()}


def onwards(model: LanguageModel, state: State) -> State:
    """What may be known when reading goes on. What comes from the right starts from zero."""
    return {
        name: torch.zeros_like(value) if not model.causal and name.startswith("right.") else value
        for name, value in state.items()
    }
