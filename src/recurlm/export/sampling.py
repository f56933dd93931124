"""How a token is drawn, in plain tensor operations: the reference for PyTorch, and the graph that ONNX gets.

Randomness comes in as one uniform number a draw, and the inverse of the cumulative distribution turns it into a token.
So PyTorch and ONNX draw the very same tokens from the same numbers, which is how they are proven equal. What is cut
away is found by a threshold on the logits, never by an index into a sorted list, so that no order of equal logits
matters.

The order is that of most libraries: repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

LARGEST_UNIFORM = 1 - 2**-24  # the float32 next to 1
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


def threshold(uniform: Float[Tensor, "batch"], temperature: Float[Tensor, "batch"]) -> Float[Tensor, "batch 1"]:
    """Uniform numbers as `draw` reads them: float64, less than 1, so that some token passes them, and at temperature 0,
    where the first of the likeliest tokens is taken, 0."""
    number = torch.where(temperature > 0, uniform, torch.zeros_like(uniform))
    return number.clamp(max=LARGEST_UNIFORM).double()[:, None]


def scale(
    logits: Float[Tensor, "batch vocabulary"],
    divisor: Float[Tensor, "batch 1"],
    suppressed: Float[Tensor, "vocabulary"],
) -> Float[Tensor, "batch vocabulary"]:
    """Logits over the temperature, with −inf added for tokens that are never drawn."""
    return (logits + suppressed) / divisor


def weigh(
    scaled: Float[Tensor, "batch vocabulary"], ranked: Float[Tensor, "batch width"]
) -> tuple[Float[Tensor, "batch width"], Float[Tensor, "batch 1"]]:
    """Probabilities of the likeliest tokens, and of the whole vocabulary, both over that of the likeliest one."""
    largest = ranked[:, :1]
    return torch.exp(ranked - largest).double(), torch.exp(scaled - largest).double().sum(dim=-1, keepdim=True)


def covered(
    scaled: Float[Tensor, "batch vocabulary"],
    ranked: Float[Tensor, "batch width"],
    top_k: Int[Tensor, "batch"],
    top_p: Float[Tensor, "batch"],
) -> Bool[Tensor, "batch"]:
    """Whether the `width` likeliest tokens are all that `cut` needs to look at."""
    weight, whole = weigh(scaled, ranked)
    reaches = weight.sum(dim=-1) >= top_p.double() * whole[:, 0]
    return ((top_k > 0) & (top_k <= ranked.shape[1])) | ((top_k == 0) & ((top_p >= 1) | reaches))


def cut(
    scaled: Float[Tensor, "batch vocabulary"],
    ranked: Float[Tensor, "batch width"],
    top_k: Int[Tensor, "batch"],
    top_p: Float[Tensor, "batch"],
    min_p: Float[Tensor, "batch"],
) -> Float[Tensor, "batch vocabulary"]:
    """Put −inf where a token is not among the `top_k` likeliest, not in the nucleus, or too rare beside the likeliest.

    The nucleus is the smallest set of the likeliest tokens that together hold at least `top_p` of the probability that
    top_k left (Holtzman et al. 2020). `min_p` keeps tokens of at least that share of the likeliest one's probability
    (Nguyen et al. 2024, arXiv:2407.01082). top_k 0, top_p 1 and min_p 0 cut nothing. Tokens as likely as the last one
    kept are kept too.

    Args:
        ranked: the likeliest logits, largest first: all of them, or as many as are `covered`.
    """
    limited = top_k[:, None] > 0
    last = torch.gather(ranked, 1, (top_k[:, None] - 1).clamp(0, ranked.shape[1] - 1))
    among_k = (ranked >= last) | ~limited
    weight, whole = weigh(scaled, ranked)
    weight = torch.where(among_k, weight, torch.zeros_like(weight))
    whole = torch.where(limited, weight.sum(dim=-1, keepdim=True), whole)
    before = torch.cumsum(weight, dim=-1) - weight
    inside = among_k & ((before < top_p[:, None].double() * whole) | (top_p[:, None] >= 1))
    lowest = torch.where(inside, ranked, torch.full_like(ranked, torch.inf)).amin(dim=-1, keepdim=True)
    # What is ranked may end before a row that cuts nothing does.
    lowest = torch.where(limited | (top_p[:, None] < 1), lowest, torch.full_like(lowest, -torch.inf))
    lowest = torch.maximum(lowest, ranked[:, :1] + torch.log(min_p[:, None]))
    return torch.where(scaled >= lowest, scaled, torch.full_like(scaled, -torch.inf))


def draw(
    scaled: Float[Tensor, "batch vocabulary"],
    threshold: Float[Tensor, "batch 1"],
) -> Int[Tensor, "batch"]:
    """The first token at which the cumulative probability passes the threshold.

    Sums are taken in float64, so that two runtimes that add in another order still agree.
    """
    cumulative = torch.cumsum(torch.softmax(scaled, dim=-1).double(), dim=-1)
    before = cumulative <= threshold * cumulative[:, -1:]
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
    ranked = torch.topk(scaled, scaled.shape[1], dim=-1).values
    kept = cut(scaled, ranked, top_k, top_p, torch.zeros_like(top_p) if min_p is None else min_p)
    return draw(kept, threshold(uniform, temperature))


def suppression(vocabulary_size: int, tokens: list[int]) -> Float[Tensor, "vocabulary"]:
    """−inf for the tokens that must never be drawn, 0 for the others."""
    mask = torch.zeros(vocabulary_size)
    mask[tokens] = -torch.inf
    return mask
