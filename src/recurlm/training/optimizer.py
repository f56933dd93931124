"""Optimizers, the learning-rate schedule, and the precision of training."""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import nn
from torch.optim import AdamW, Optimizer

from recurlm.config import TrainOptimizer, TrainSchedule
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.training.distributed import ALONE, Workers
from recurlm.training.muon import Muon, has_bf16


def optimizers(
    model: LanguageModel, config: TrainOptimizer, muon_lr: float, adamw_lr: float, workers: Workers = ALONE
) -> list[Optimizer]:
    """AdamW for everything, or Muon for the recurrence's matrices and AdamW for the rest. Only matrices are decayed."""
    matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
    vectors = [parameter for parameter in model.parameters() if parameter.ndim != 2]
    if config.name == "adamw":
        return [_adamw(matrices, vectors, adamw_lr, config)]
    inside = {id(parameter) for parameter in model.recurrence.parameters()}
    muon = Muon(
        [parameter for parameter in matrices if id(parameter) in inside],
        lr=muon_lr,
        momentum=config.momentum,
        weight_decay=config.weight_decay,
        every=config.orthogonalize_every,
        workers=workers,
    )
    outside = [parameter for parameter in matrices if id(parameter) not in inside]
    return [muon, _adamw(outside, vectors, adamw_lr, config)]


def _adamw(matrices: list[nn.Parameter], vectors: list[nn.Parameter], lr: float, config: TrainOptimizer) -> AdamW:
    groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=lr, betas=config.adamw_betas, fused=True)


def lr_scale(schedule: TrainSchedule, progress: float, step: float) -> float:
    """The learning rate over its maximum: a linear warm-up, then a decay to zero at the run's end.

    Args:
        progress: 0 to 1, of the run before the step.
        step: of the run that the step takes, so that the first one has a rate above zero.
    """
    warmup = schedule.warmup_ratio
    if progress < warmup:
        return (progress + step) / (warmup + step)
    decayed = (progress - warmup) / (1 - warmup)
    return {"linear": 1 - decayed, "cosine": (1 + math.cos(math.pi * decayed)) / 2, "constant": 1.0}[schedule.name]


def set_lr(optimizers: list[Optimizer], scale: float) -> None:
    """Set every group's learning rate to `scale` times its maximum."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group.setdefault("max_lr", group["lr"])
            group["lr"] = group["max_lr"] * scale


def precision(wanted: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """`auto` takes bf16 where the machine multiplies in it, rather than imitating it.

    Raises:
        InputError: bf16 was asked for and the machine lacks it.
    """
    has_it = has_bf16(device)
    if wanted == "bf16" and not has_it:
        raise InputError("params.yaml: train.precision is 'bf16', and this machine has none: use 'auto' or 'fp32'")
    return "bf16" if wanted != "fp32" and has_it else "fp32"
