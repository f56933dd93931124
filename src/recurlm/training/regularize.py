"""What keeps a model from learning its text by heart, beside dropout: none of it leaves a trace in the weights."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor, nn


@contextmanager
def weight_drop(matrices: Sequence[nn.Parameter], share: float) -> Iterator[None]:
    """Forward and backward with a share of the weights at zero, and the gradient with respect to the whole matrices.

    The same weights are hidden at every step of the rows (Wan et al. 2013; recurrent matrices: Merity, Keskar & Socher
    2018, arXiv:1708.02182). The others are enlarged by 1 / (1 − share), as in dropout.
    """
    if share == 0:
        yield
        return
    masks = [(torch.rand_like(matrix) >= share).to(matrix.dtype).div_(1 - share) for matrix in matrices]
    whole = [matrix.detach().clone() for matrix in matrices]
    # Through .data, in place: a fused kernel finds its weights where they were, and autograd sees no change of them.
    for matrix, mask in zip(matrices, masks, strict=True):
        matrix.data.mul_(mask)
    try:
        yield
    finally:
        for matrix, mask, value in zip(matrices, masks, whole, strict=True):
            matrix.data.copy_(value)
            if matrix.grad is not None:
                matrix.grad.mul_(mask)


def activation_penalty(
    y: Float[Tensor, "batch time width"], dropped: Float[Tensor, "batch time width"], size: float, change: float
) -> Float[Tensor, ""] | float:
    """`size` × mean y² behind dropout, and `change` × mean (y[t+1] − y[t])² before it.

    AR and TAR of Merity, McCann & Socher 2017 (arXiv:1708.01009): small outputs, and slow ones.
    """
    penalty: Tensor | float = 0.0
    if size:
        penalty = penalty + size * dropped.float().pow(2).mean()
    if change and y.shape[1] > 1:
        penalty = penalty + change * y.float().diff(dim=1).pow(2).mean()
    return penalty
