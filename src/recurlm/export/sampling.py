"""How a token is drawn, in plain tensor operations: the reference for PyTorch, and the graph that ONNX gets.

Randomness comes in as one uniform number a draw, and the inverse of the cumulative distribution turns it into a token.
So PyTorch and ONNX draw the very same tokens from the same numbers, which is how they are verified equal.

Probabilities are whole numbers, the weights: e^(logit − largest) by operations that IEEE 754 rounds in one way, times
LARGEST, cut off. Their sums are exact in any order, so that one uniform number and one row of logits give one token in
every runtime. They are computed once a token; top-k, top-p and min-p are thresholds on them, never an index into a
sorted list, so that no order of equal weights matters. What is less likely than 2^−32 of the likeliest token has weight
0, and is never drawn.

The order is that of most libraries: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float64, Int
from torch import Tensor

from recurlm.export.exact import TORCH

LARGEST_UNIFORM = 1 - 2**-24  # the float32 next to 1
LEAST = -24.0  # of `weights`: e^−24 of LARGEST parts is none
SQUARINGS = 5
LARGEST = 2**2**SQUARINGS  # the weight of the likeliest token; the sum of two million of them is exact in float64
GREEDY = 2.0**-60  # the temperature that stands for 0: a power of two, so that no two logits become one
NUCLEUS_OF_ALL, NUCLEUS_OF_ONE = 2.0, 2.0**-24  # shares that no sum reaches, and that the first token does


def penalize(
    logits: Float[Tensor, "batch vocabulary"],
    seen: Bool[Tensor, "batch vocabulary"],
    penalty: Float[Tensor, "batch"],
) -> Float[Tensor, "batch vocabulary"]:
    """Make tokens that the text has already less likely: a positive logit is divided by the penalty, a negative one
    multiplied with it (Keskar et al. 2019, arXiv:1909.05858, section 4.1). Penalty 1 changes nothing."""
    factor = penalty[:, None]
    return torch.where(seen, torch.where(logits > 0, logits / factor, logits * factor), logits)


def remember(seen: Bool[Tensor, "batch vocabulary"], token: Int[Tensor, "batch"]) -> Bool[Tensor, "batch vocabulary"]:
    """The tokens of the text so far, with one more a row."""
    return seen | (torch.arange(seen.shape[1]) == token[:, None])


def divisor(temperature: Float[Tensor, "batch"]) -> Float[Tensor, "batch 1"]:
    """The temperature; for 0 one at which nothing but the likeliest token has a probability."""
    return torch.where(temperature > 0, temperature, torch.full_like(temperature, GREEDY))[:, None]


def threshold(uniform: Float[Tensor, "batch"], temperature: Float[Tensor, "batch"]) -> Float64[Tensor, "batch 1"]:
    """Uniform numbers as `draw` reads them: less than 1, so that some token passes them; and 0 at temperature 0, where
    the first of the likeliest tokens is taken."""
    number = torch.where(temperature > 0, uniform, torch.zeros_like(uniform))
    return number.clamp(max=LARGEST_UNIFORM).double()[:, None]


def scale(
    logits: Float[Tensor, "batch vocabulary"],
    divisor: Float[Tensor, "batch 1"],
    suppressed: Float[Tensor, "vocabulary"],
) -> Float[Tensor, "batch vocabulary"]:
    """Logits over the temperature, with −inf added for tokens that are never drawn."""
    return (logits + suppressed) / divisor


def weights(scaled: Float[Tensor, "batch vocabulary"]) -> Int[Tensor, "batch vocabulary"]:
    """Each token's probability over that of the likeliest one, in parts of LARGEST.

    e^x = (e^z)^32 with z = x / 32, by Padé's e^z ≈ 1 + 12 / (z + 12 / z − 6) of degree 2: within 1e-5 of e^x down to
    e^−5 and 2e-4 down to e^−10, with fewer operations than `exact.exp`, which is nearer. The fraction is cut off.
    """
    power, unit = 2**SQUARINGS, 2.0  # LARGEST is unit^power
    # Nothing is divided by 0: e^−tiny is 1.
    x = TORCH.clip(scaled - scaled.amax(dim=-1, keepdim=True), LEAST, -(2.0**-64))
    y = TORCH.add(TORCH.add(TORCH.div(12.0 * power**2, x), x), -6.0 * power)
    y = TORCH.add(TORCH.div(12.0 * power * unit, y), unit)
    for _ in range(SQUARINGS):
        y = TORCH.mul(y, y)
    return y.long()


def weigh(weight: Int[Tensor, "batch width"]) -> Float64[Tensor, "batch 1"]:
    """The sum of weights: a whole number, and exact. In float64, which onnxruntime adds up quicker than integers."""
    return weight.double().sum(dim=-1, keepdim=True)


class Limits(NamedTuple):
    """What a row may draw: what follows from its top_k, top_p and min_p before any logit is known."""

    limited: Bool[Tensor, "batch 1"]  # top_k is asked for;
    place: Int[Tensor, "batch 1"]  # then the place of the last of the likeliest tokens, otherwise 0
    nucleus: Float64[Tensor, "batch 1"]  # the share of the weight to keep
    ranks: Bool[Tensor, "batch 1"]  # top_k or top_p is asked for
    least: Int[Tensor, "batch 1"]  # the least weight that min_p keeps


def limits(
    top_k: Int[Tensor, "batch"], top_p: Float[Tensor, "batch"], min_p: Float[Tensor, "batch"], vocab_size: int
) -> Limits:
    """top_k 0, top_p 1 and min_p 0 keep every token."""
    limited = top_k > 0
    place = top_k.clamp(1, vocab_size) - 1
    ranks = limited | (top_p < 1)
    everything = torch.where(limited, NUCLEUS_OF_ALL, NUCLEUS_OF_ONE)
    nucleus = torch.where(top_p < 1, top_p.clamp(min=NUCLEUS_OF_ONE), everything).double()
    least = torch.ceil(min_p.clamp(max=1).double() * LARGEST).long()
    return Limits(limited[:, None], place[:, None], nucleus[:, None], ranks[:, None], least[:, None])


def covered(
    ranked: Int[Tensor, "batch width"],
    whole: Float64[Tensor, "batch 1"],
    limited: Bool[Tensor, "batch 1"],
    nucleus: Float64[Tensor, "batch 1"],
) -> Bool[Tensor, "batch 1"]:
    """Whether the `width` largest weights, at least as many as any top_k, are all that `cut` needs to look at."""
    return limited | (weigh(ranked) >= nucleus * whole)


def cut(
    weight: Int[Tensor, "batch vocabulary"],
    ranked: Int[Tensor, "batch width"],
    whole: Float64[Tensor, "batch 1"],
    limited: Bool[Tensor, "batch 1"],
    place: Int[Tensor, "batch 1"],
    nucleus: Float64[Tensor, "batch 1"],
    ranks: Bool[Tensor, "batch 1"],
    least: Int[Tensor, "batch 1"],
) -> Int[Tensor, "batch vocabulary"]:
    """Put 0 where a token is not among the `top_k` likeliest, not in the nucleus, or too rare beside the likeliest.

    The nucleus is the smallest set of the likeliest tokens that together hold at least `top_p` of the weight that top_k
    left (Holtzman et al. 2020). `min_p` keeps tokens of at least that share of the likeliest one's weight (Nguyen et
    al. 2024, arXiv:2407.01082). Tokens whose weight is that of the last one kept are kept too.

    Args:
        ranked: the largest weights, in descending order: all of them, or as many as are `covered`.
        whole: what `weigh` says of the vocabulary; it is not looked at in rows that are limited.
        limited: with all that follows, see `Limits`.
    """
    cumulative = torch.cumsum(ranked, dim=-1)
    # By places: of equal weights at the end of top_k, some may lie beyond what is ranked.
    whole = torch.where(limited, cumulative.gather(1, place).double(), whole)
    # The place of the token that fills the nucleus.
    last = (cumulative.double() < nucleus * whole).float().sum(dim=-1, keepdim=True).long()
    last = torch.where(limited, torch.minimum(last, place), last)
    # What is ranked may end before a row that asks for neither does.
    lowest = torch.where(ranks, ranked.gather(1, last), 0)
    return weight * (weight >= torch.maximum(lowest, least))


def draw(
    weight: Int[Tensor, "batch vocabulary"],
    threshold: Float64[Tensor, "batch 1"],
) -> Int[Tensor, "batch"]:
    """The first token at which the cumulative weight passes the threshold's share of the whole."""
    cumulative = torch.cumsum(weight, dim=-1)
    total = cumulative.index_select(1, torch.tensor([weight.shape[1] - 1]))
    before = cumulative <= (threshold * total.double()).long()
    # Counted in float32, which is exact up to 2^24 tokens and quicker in onnxruntime than integers.
    return before.float().sum(dim=-1).long()


def sample(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: Float[Tensor, "batch"],
    top_k: Int[Tensor, "batch"],
    top_p: Float[Tensor, "batch"],
    uniform: Float[Tensor, "batch"],
    suppressed: Float[Tensor, "vocabulary"],
    min_p: Float[Tensor, "batch"] | None = None,
    penalty: Float[Tensor, "batch"] | None = None,
    seen: Bool[Tensor, "batch vocabulary"] | None = None,
) -> Int[Tensor, "batch"]:
    """One token a row."""
    if penalty is not None and seen is not None:
        logits = penalize(logits, seen, penalty)
    weight = weights(scale(logits, divisor(temperature), suppressed))
    min_p = torch.zeros_like(top_p) if min_p is None else min_p
    if not ((top_k > 0) | (top_p < 1) | (min_p > 0)).any():
        return draw(weight, threshold(uniform, temperature))
    ranked = torch.from_numpy(-np.sort(-weight.numpy(), axis=-1))  # ten times as fast as torch's
    asked = limits(top_k, top_p, min_p, weight.shape[1])
    kept = cut(weight, ranked, weigh(weight), **asked._asdict())
    return draw(kept, threshold(uniform, temperature))


def suppression(vocab_size: int, tokens: list[int]) -> Float[Tensor, "vocabulary"]:
    """−inf for the tokens that must never be drawn, 0 for the others."""
    mask = torch.zeros(vocab_size)
    mask[tokens] = -torch.inf
    return mask
