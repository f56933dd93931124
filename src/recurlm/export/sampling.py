"""How a token is drawn, in plain tensor operations: the reference for PyTorch, and the graph that ONNX gets.

Randomness comes in as one uniform number a draw, and the inverse of the cumulative distribution turns it into a token.
So PyTorch and ONNX draw the very same tokens from the same numbers, which is how they are proven equal. What is cut
away is found by a threshold on the logits, never by an index into a sorted list, so that no order of equal logits
matters.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor


def scale(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: Float[Tensor, "batch"],
    suppressed: Float[Tensor, "vocabulary"],
) -> Float[Tensor, "batch vocabulary"]:
    """Logits over the temperature, with −inf added for tokens that are never drawn; temperature 0 divides by 1."""
    divisor = torch.where(temperature > 0, temperature, torch.ones_like(temperature))
    return (logits + suppressed) / divisor[:, None]


def cut(
    scaled: Float[Tensor, "batch vocabulary"], top_k: Int[Tensor, "batch"], top_p: Float[Tensor, "batch"]
) -> Float[Tensor, "batch vocabulary"]:
    """Put −inf where a token is neither among the `top_k` likeliest nor in the nucleus (Holtzman et al. 2020).

    The nucleus is the smallest set of the likeliest tokens that together hold at least `top_p` of the probability that
    top_k left. top_k 0 and top_p 1 cut nothing. Tokens as likely as the last one kept are kept too.
    """
    vocabulary = scaled.shape[-1]
    ranked = torch.topk(scaled, vocabulary, dim=-1).values
    last = torch.gather(ranked, 1, (top_k[:, None] - 1).clamp(0, vocabulary - 1))
    last = torch.where(top_k[:, None] > 0, last, torch.full_like(last, -torch.inf))
    ranked = torch.where(ranked >= last, ranked, torch.full_like(ranked, -torch.inf))
    probability = torch.softmax(ranked, dim=-1).double()
    before = torch.cumsum(probability, dim=-1) - probability
    inside = ((before < top_p[:, None].double()) | (top_p[:, None] >= 1)) & (ranked > -torch.inf)
    lowest = torch.where(inside, ranked, torch.full_like(ranked, torch.inf)).amin(dim=-1, keepdim=True)
    return torch.where(scaled >= lowest, scaled, torch.full_like(scaled, -torch.inf))


def draw(
    scaled: Float[Tensor, "batch vocabulary"],
    temperature: Float[Tensor, "batch"],
    uniform: Float[Tensor, "batch"],
) -> Int[Tensor, "batch"]:
    """The first token at which the cumulative probability passes `uniform`; at temperature 0 the likeliest.

    Sums are taken in float64, so that two runtimes that add in another order still agree.
    """
    cumulative = torch.cumsum(torch.softmax(scaled, dim=-1).double(), dim=-1)
    total = cumulative[:, -1:]
    # A uniform number next to 1 may round up to the total: the second condition then stops at the last token kept.
    passed = (cumulative <= uniform[:, None].double() * total) & (cumulative < total)
    return torch.where(temperature > 0, passed.long().sum(dim=-1), torch.argmax(scaled, dim=-1))


def sample(
    logits: Float[Tensor, "batch vocabulary"],
    temperature: Float[Tensor, "batch"],
    top_k: Int[Tensor, "batch"],
    top_p: Float[Tensor, "batch"],
    uniform: Float[Tensor, "batch"],
    suppressed: Float[Tensor, "vocabulary"],
) -> Int[Tensor, "batch"]:
    """One token a row."""
    return draw(cut(scale(logits, temperature, suppressed), top_k, top_p), temperature, uniform)


def suppression(vocabulary_size: int, tokens: list[int]) -> Float[Tensor, "vocabulary"]:
    """−inf for the tokens that must never be drawn, 0 for the others."""
    mask = torch.zeros(vocabulary_size)
    mask[tokens] = -torch.inf
    return mask
