"""How a token is drawn, in plain tensor operations: the reference for PyTorch, and the graph that ONNX gets.

Randomness comes in as one uniform number a draw, and the inverse of the cumulative distribution turns it into a token.
So PyTorch and ONNX draw the very same tokens from the same numbers, which is how they are verified equal. What is cut
away is found by a threshold on the logits, never by an index into a sorted list, so that no order of equal logits
matters.

Probabilities are whole numbers: e^(logit − largest) by exact.py, times a power of two, cut off. Their sums are exact in
any order, so that one uniform number and one row of logits give one token in every runtime. What is less likely than a
hundred-millionth of the likeliest token counts as 0.

The order is that of most libraries: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recurlm.export import exact
from recurlm.export.exact import TORCH

ONE = 2**24  # uniform numbers and shares of a probability are whole multiples of 1 / ONE
LARGEST_UNIFORM = 1 - 2**-24  # the float32 next to 1
LEAST, SQUARINGS = -24.0, 7  # of `weights`: e^−24 of 2^30 parts is none
GREEDY = 2.0**-60  # the temperature that stands for 0: a power of two, so that no two logits become one


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


def threshold(uniform: Float[Tensor, "batch"], temperature: Float[Tensor, "batch"]) -> Int[Tensor, "batch 1"]:
    """Uniform numbers as `draw` reads them: in parts of ONE, less than all, so that some token passes them, and at
    temperature 0, where the first of the likeliest tokens is taken, 0."""
    number = torch.where(temperature > 0, uniform, torch.zeros_like(uniform))
    return (number.clamp(max=LARGEST_UNIFORM) * ONE).long()[:, None]


def scale(
    logits: Float[Tensor, "batch vocabulary"],
    divisor: Float[Tensor, "batch 1"],
    suppressed: Float[Tensor, "vocabulary"],
) -> Float[Tensor, "batch vocabulary"]:
    """Logits over the temperature, with −inf added for tokens that are never drawn."""
    return (logits + suppressed) / divisor


class Limits(NamedTuple):
    """What a row may draw: what follows from its top_k, top_p and min_p before any logit is known."""

    limited: Bool[Tensor, "batch 1"]  # top_k is asked for;
    place: Int[Tensor, "batch 1"]  # then the place of the last of the likeliest tokens
    nucleus: Int[Tensor, "batch 1"]  # the share of the probability to keep, in parts of ONE; 2 · ONE where all of it is
    ranks: Bool[Tensor, "batch 1"]  # top_k or top_p is asked for
    log_min_p: Float[Tensor, "batch 1"]


def limits(
    top_k: Int[Tensor, "batch"], top_p: Float[Tensor, "batch"], min_p: Float[Tensor, "batch"], vocab_size: int
) -> Limits:
    """top_k 0, top_p 1 and min_p 0 keep every token."""
    limited = top_k > 0
    place = top_k.clamp(1, vocab_size) - 1
    nucleus = (torch.where(top_p < 1, top_p, 2.0) * ONE).long().clamp(min=1)
    ranks = limited | (top_p < 1)
    log_min_p = torch.where(min_p > 0, exact.log(TORCH, min_p), -torch.inf)
    return Limits(limited[:, None], place[:, None], nucleus[:, None], ranks[:, None], log_min_p[:, None])


def weights(
    scaled: Float[Tensor, "batch width"], largest: Float[Tensor, "batch 1"], vocab_size: int
) -> Int[Tensor, "batch width"]:
    """Each token's probability over that of the likeliest one, in parts of a power of two.

    A power of a cubic, before the fraction is cut off: within 3e-5 of e^x down to e^−5 and 3e-4 down to e^−10, with
    fewer operations than `exact.exp`, which is nearer. Times 2 · ONE, the sum over the vocabulary fits 63 bits.
    """
    bits = min(30, 37 - (vocab_size - 1).bit_length())
    power, unit = 2**SQUARINGS, 2.0 ** (bits / 2**SQUARINGS)
    x = TORCH.maximum(scaled - largest, LEAST)
    y = TORCH.mul(x, unit / 6 / power**3)
    for degree in (2, 1):
        y = TORCH.mul(TORCH.add(y, unit / degree / power**degree), x)
    y = TORCH.add(y, unit)
    for _ in range(SQUARINGS):
        y = TORCH.mul(y, y)
    return y.long()


def weigh(scaled: Float[Tensor, "batch vocabulary"], ranked: Float[Tensor, "batch width"]) -> Int[Tensor, "batch 1"]:
    """The weight of the whole vocabulary."""
    return weights(scaled, ranked[:, :1], scaled.shape[1]).sum(dim=-1, keepdim=True)


def covered(
    ranked: Float[Tensor, "batch width"],
    whole: Int[Tensor, "batch 1"],
    limited: Bool[Tensor, "batch 1"],
    nucleus: Int[Tensor, "batch 1"],
    ranks: Bool[Tensor, "batch 1"],
    vocab_size: int,
) -> Bool[Tensor, "batch 1"]:
    """Whether the `width` likeliest tokens, at least as many as any top_k, are all that `cut` needs to look at."""
    weight = weights(ranked, ranked[:, :1], vocab_size).sum(dim=-1, keepdim=True)
    return limited | ~ranks | (weight * ONE >= nucleus * whole)


def cut(
    scaled: Float[Tensor, "batch vocabulary"],
    ranked: Float[Tensor, "batch width"],
    whole: Int[Tensor, "batch 1"],
    limited: Bool[Tensor, "batch 1"],
    place: Int[Tensor, "batch 1"],
    nucleus: Int[Tensor, "batch 1"],
    ranks: Bool[Tensor, "batch 1"],
    log_min_p: Float[Tensor, "batch 1"],
) -> Float[Tensor, "batch vocabulary"]:
    """Put −inf where a token is not among the `top_k` likeliest, not in the nucleus, or too rare beside the likeliest.

    The nucleus is the smallest set of the likeliest tokens that together hold at least `top_p` of the probability that
    top_k left (Holtzman et al. 2020). `min_p` keeps tokens of at least that share of the likeliest one's probability
    (Nguyen et al. 2024, arXiv:2407.01082). Tokens as likely as the last one kept are kept too.

    Args:
        ranked: the likeliest logits, largest first: all of them, or as many as are `covered`.
        whole: what `weigh` says; it is not looked at in rows that are limited.
        limited: with all that follows, see `Limits`.
    """
    largest = ranked[:, :1]
    # By their places: of equal logits at the end of top_k, some may lie beyond what is ranked.
    among = ~limited | (torch.arange(ranked.shape[1]) <= place)
    weight = torch.where(among, weights(ranked, largest, scaled.shape[1]), 0)
    whole = torch.where(limited, weight.sum(dim=-1, keepdim=True), whole)
    before = torch.cumsum(weight, dim=-1) - weight
    inside = among & (before * ONE < nucleus * whole)
    lowest = torch.where(inside, ranked, torch.inf).amin(dim=-1, keepdim=True)
    # What is ranked may end before a row that asks for neither does.
    lowest = torch.where(ranks, lowest, -torch.inf)
    lowest = torch.maximum(lowest, largest + log_min_p)
    return torch.where(scaled >= lowest, scaled, -torch.inf)


def draw(
    scaled: Float[Tensor, "batch vocabulary"],
    threshold: Int[Tensor, "batch 1"],
) -> Int[Tensor, "batch"]:
    """The first token at which the cumulative weight passes the threshold's share of the whole."""
    weight = weights(scaled, scaled.amax(dim=-1, keepdim=True), scaled.shape[1])
    cumulative = torch.cumsum(weight, dim=-1)
    total = cumulative.index_select(1, torch.tensor([scaled.shape[1] - 1]))
    before = cumulative * ONE <= threshold * total
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
    scaled = scale(logits, divisor(temperature), suppressed)
    min_p = torch.zeros_like(top_p) if min_p is None else min_p
    if not ((top_k > 0) | (top_p < 1) | (min_p > 0)).any():
        return draw(scaled, threshold(uniform, temperature))
    ranked = torch.from_numpy(-np.sort(-scaled.numpy(), axis=-1))  # ten times as fast as torch's
    asked = limits(top_k, top_p, min_p, scaled.shape[1])
    kept = cut(scaled, ranked, weigh(scaled, ranked), **asked._asdict())
    return draw(kept, threshold(uniform, temperature))


def suppression(vocab_size: int, tokens: list[int]) -> Float[Tensor, "vocabulary"]:
    """−inf for the tokens that must never be drawn, 0 for the others."""
    mask = torch.zeros(vocab_size)
    mask[tokens] = -torch.inf
    return mask
