"""Muon and AdamW, the learning-rate schedule, and the precision of training."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from recurlm.config import TrainOptimizer, TrainSchedule
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.training.distributed import ALONE, Workers

# Jordan et al. 2024, https://kellerjordan.github.io/posts/muon: an odd polynomial that, applied five times, brings
# singular values between 0.003 and 1 to between 0.7 and 1.2.
A, B, C, TIMES = 3.4445, -4.7750, 2.0315, 5


def has_bf16(device: torch.device) -> bool:
    """Whether the machine multiplies in bf16, rather than imitating it."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported())


class Muon(Optimizer):
    """Nesterov momentum, each matrix's update orthogonal and scaled to the size of AdamW's (arXiv:2502.16982).

    It differs from torch.optim.Muon in one thing: a matrix is orthogonalized at every `every`-th step, the matrices in
    turns, and moves along the same direction until its turn comes again. Momentum changes slowly, and five products of
    matrices are as much work as a small batch. Several processes share that work, a matrix each.
    """

    def __init__(
        self,
        matrices: Iterable[nn.Parameter],
        lr: float,
        momentum: float,
        weight_decay: float,
        every: int = 1,
        workers: Workers = ALONE,
    ) -> None:
        self.workers = workers
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "every": every}
        super().__init__(list(matrices), defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            moved = [matrix for matrix in group["params"] if matrix.grad is not None]
            turned: list[Tensor] = []  # new directions, each found by one process
            for number, matrix in enumerate(group["params"]):
                if matrix.grad is None:
                    continue
                state = self.state[matrix]
                if not state:
                    state["momentum"], state["step"] = torch.zeros_like(matrix), torch.zeros(())
                momentum = state["momentum"].lerp_(matrix.grad, 1 - group["momentum"])
                if "direction" not in state or (int(state["step"]) + number) % group["every"] == 0:
                    mine = self.workers.owns(len(turned))
                    update = matrix.grad.lerp(momentum, group["momentum"])
                    state["direction"] = orthogonal(update) if mine else update
                    turned.append(state["direction"])
                state["step"] += 1
            self.workers.exchange(turned)
            for matrix in moved:
                state = self.state[matrix]
                matrix.mul_(1 - group["lr"] * group["weight_decay"])
                matrix.add_(state["direction"], alpha=-group["lr"] * 0.2 * math.sqrt(max(matrix.shape)))


def orthogonal(x: Float[Tensor, "rows columns"]) -> Float[Tensor, "rows columns"]:
    """About U Vᵀ of x = U S Vᵀ, by Newton–Schulz iterations, in bf16 where the machine multiplies in it.

    Elsewhere bf16 products are emulated, element by element: 170 times as slow as fp32 on a Zen 3.
    """
    wide = x.T if len(x) > x.shape[1] else x
    dtype = torch.bfloat16 if has_bf16(x.device) else torch.float32
    y: Tensor = (wide / wide.norm().clamp(min=1e-7)).to(dtype).contiguous()
    for _ in range(TIMES):
        gram = y @ y.T
        # Not addmm: with factors other than 1 its bf16 product is a slow one on some machines.
        y = ((gram @ gram).mul_(C).add_(gram, alpha=B) @ y).add_(y, alpha=A)
    return (y.T if len(x) > x.shape[1] else y).to(x.dtype)


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
