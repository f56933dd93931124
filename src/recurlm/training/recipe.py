"""What updates the weights, and how fast: optimizers, the learning-rate schedule, the precision of the arithmetic."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from recurlm.config import Train
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.training.muon import Muon, has_bf16


def optimizers(model: LanguageModel, recipe: Train, muon_lr: float, adamw_lr: float) -> list[Optimizer]:
    """AdamW for everything, or Muon for the recurrence's matrices and AdamW, at a rate of its own, for the rest.

    Only matrices are decayed.
    """
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    if recipe.optimizer == "adamw":
        return [_adamw(matrices, vectors, muon_lr, recipe.weight_decay)]
    inside = {id(parameter) for parameter in model.recurrence.parameters()}
    muon = Muon(
        [parameter for parameter in matrices if id(parameter) in inside],
        lr=muon_lr,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        every=recipe.orthogonalize_every,
    )
    outside = [parameter for parameter in matrices if id(parameter) not in inside]
    return [muon, _adamw(outside, vectors, adamw_lr, recipe.weight_decay)]


def _adamw(matrices: list[nn.Parameter], vectors: list[nn.Parameter], learning_rate: float, decay: float) -> AdamW:
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=learning_rate, betas=(0.9, 0.99), fused=True)


def rate(schedule: Literal["linear", "cosine", "constant"], share: float, step: float, warmup_ratio: float) -> float:
    """The share of the full learning rate: a linear warm-up, then a decay to zero at the run's end.

    Args:
        share: of the run that is over before the step.
        step: the share of the run that the step takes, so that the first one has a rate above zero.
    """
    if share < warmup_ratio:
        return (share + step) / (warmup_ratio + step)
    done = (share - warmup_ratio) / (1 - warmup_ratio)
    return {"linear": 1 - done, "cosine": (1 + math.cos(math.pi * done)) / 2, "constant": 1.0}[schedule]


def precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """`auto` takes bf16 where the machine multiplies in it, rather than imitating it.

    Raises:
        InputError: bf16 was asked for and the machine lacks it.
    """
    has_it = has_bf16(device)
    if wanted == "bf16" and not has_it:
        raise InputError("params.yaml: train.precision is 'bf16', and this machine has none: use 'auto' or 'fp32'")
    return "bf16" if wanted != "fp32" and has_it else "fp32"
