"""The last layer and the loss in one: mean cross-entropy, without ever holding the logits of all positions."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

LOGITS = 2**22  # in a slice: 16 MB in fp32; smaller slices cost time, for the sums over them


def linear_cross_entropy(
    x: Float[Tensor, "positions width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, "vocabulary"],
    targets: Int[Tensor, "positions"],
) -> Float[Tensor, ""]:
    """Mean nats of the targets under softmax(x weightᵀ + bias), slice by slice, in the precision of autocast.

    The gradients are found on the way forward, while a slice's logits are at hand. The softmax and all sums over
    slices are fp32.
    """
    return _LinearCrossEntropy.apply(x, weight, bias, targets)  # type: ignore[no-untyped-call, no-any-return]


def sampled_cross_entropy(
    x: Float[Tensor, "positions width"],
    weight: Float[Tensor, "vocabulary width"],
    bias: Float[Tensor, "vocabulary"],
    targets: Int[Tensor, "positions"],
    negatives: int,
    step_targets: Int[Tensor, "step_positions"] | None = None,
) -> Float[Tensor, ""]:
    """Sampled softmax: the same from all targets and some negatives (Bengio & Senécal 2003; Jean et al. 2015).

    A negative's exponential is weighted by the inverse of its sampling rate, so that the partition function is right on
    average, and the loss a little too low on average.

    Args:
        negatives: how many; where the vocabulary has no more, all are taken and the loss is exact.
        step_targets: those of all processes, none of which is a negative; None: `targets`.
    """
    present = torch.zeros(len(weight), dtype=torch.bool, device=targets.device)
    present[targets if step_targets is None else step_targets] = True
    others = (~present).nonzero()[:, 0]
    # Drawn on the CPU: the same on any device.
    sampled = torch.randperm(len(others))[:negatives].to(others.device)
    kept = torch.cat((present.nonzero()[:, 0], others[sampled]))
    place = torch.empty_like(present, dtype=torch.long)
    place[kept] = torch.arange(len(kept), device=kept.device)
    log_weight = torch.zeros(len(kept), device=bias.device, dtype=bias.dtype)
    if len(sampled):
        log_weight[-len(sampled) :] = math.log(len(others) / len(sampled))
    return linear_cross_entropy(x, weight[kept], bias[kept] + log_weight, place[targets])


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, targets: Tensor) -> Tensor:
        device = x.device.type
        kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
        with torch.autocast(device, enabled=False):
            rows = max(1, LOGITS // len(weight))
            x, w, b = x.to(kind), weight.to(kind), bias.to(kind)
            nats = torch.zeros((), device=x.device)
            dx, dw, db = torch.empty_like(x), torch.zeros_like(weight), torch.zeros_like(bias)
            for at in range(0, len(x), rows):
                here = slice(at, at + rows)
                log_p = F.log_softmax(torch.addmm(b, x[here], w.T), dim=-1, dtype=torch.float32)
                target = targets[here, None]
                nats -= log_p.gather(1, target).sum()
                # d loss / d logits = (p − 1 at the target) / positions
                slope = log_p.exp_()
                slope.scatter_add_(1, target, slope.new_full(target.shape, -1.0))
                slope = slope.div_(len(x))
                db += slope.sum(0)
                slope = slope.to(kind)
                torch.mm(slope, w, out=dx[here])
                dw += slope.T @ x[here]
            ctx.save_for_backward(dx, dw, db)
            return nats / len(x)

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        dx, dw, db = ctx.saved_tensors
        return dx * slope, dw * slope, db * slope, None
