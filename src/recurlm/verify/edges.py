"""Comparisons where a small difference shows: at the edges of probabilities, at halves of a scale, in all tokens.

A uniform number beside the edge between two tokens makes either of them, if a probability moves by no more than float
error. So a few draws see what thousands of plain ones would not.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recurlm.config import Sampling
from recurlm.export.sampling import weights
from recurlm.model import LanguageModel
from recurlm.variants.base import State
from recurlm.verify.checks import FREE, Agreement, Comparison
from recurlm.verify.reference import Rows

ONE = 2**24  # uniform numbers are whole multiples of 1 / ONE
MARGIN = 16  # of the float error, on which side of an edge a number must stay
ROWS_OF_HALVES = 16
SHORT = 16  # tokens of a text, of those that are scored side by side
MOST_LOGITS = 2**23  # in memory at once
NUMBERS = 2**24  # of states, by so many texts: about one in 2^18 lies at half a step of its scale
# Each row of one call has another of these.
MIXED = (
    Sampling(temperature=0.0, top_k=0, top_p=1.0),
    Sampling(temperature=1.3, top_k=3, top_p=0.8),
    Sampling(temperature=0.6, top_k=0, top_p=1.0),
    Sampling(temperature=1.6, top_k=0, top_p=0.7),
    Sampling(temperature=1.0, top_k=12, top_p=0.9),
)


@dataclass(frozen=True)
class BesideEdges:
    """Uniform numbers at temperature 1 that lie beside the end of the token which `uniform` draws.

    In float32 a number stays as it was where another edge lies too near: between unlikely tokens any number is a near
    tie.
    """

    error: float | None  # of the logits; None where there is none: then nothing is nearer

    def __call__(
        self,
        logits: Float[Tensor, "rows vocabulary"],
        suppressed: Float[Tensor, "vocabulary"],
        uniform: Float[np.ndarray, "rows"],
    ) -> Float[np.ndarray, "rows"]:
        cumulative = weights(logits + suppressed).cumsum(dim=-1)
        share = cumulative.double() / cumulative[:, -1:]
        drawn = (share <= torch.from_numpy(uniform.astype(np.float64))[:, None]).sum(dim=-1, keepdim=True)
        end = (share.gather(1, drawn.clamp(max=logits.shape[1] - 1))[:, 0] * ONE).long().numpy()
        away = 0 if self.error is None else int(np.ceil(MARGIN * self.error * ONE))
        above = (uniform * 1000).astype(np.int64) % 2 == 0
        numbers = np.where(above, end + 1 + away, end - away).clip(0, ONE - 1)
        nearest = (share * ONE - torch.from_numpy(numbers)[:, None]).abs().amin(dim=-1).numpy()
        return np.where(nearest >= away - 1, numbers / ONE, uniform).astype(np.float32)


def drawn_beside_edges(comparison: Comparison, rows: Rows, tokens: int) -> Agreement:
    """Tokens that numbers beside edges draw: `tokens` of them a row, or one at each place of a cloze model."""
    choose, reference = BesideEdges(comparison.error), comparison.reference
    time = max(map(len, rows)) if comparison.cloze else tokens
    uniform = np.random.default_rng(7).random((len(rows), time), np.float32)
    if not comparison.cloze:
        plain = comparison.generated(rows, uniform, FREE, choose=choose)
        # One row with a cut, and generator.onnx takes its other loop for all.
        cut = comparison.generated(rows, uniform, [*[FREE] * (len(rows) - 1), MIXED[1]], choose=choose)
        return Agreement(plain.tokens + cut.tokens, plain.near_ties + cut.near_ties)
    for numbers, logits in zip(uniform, reference.logits(rows), strict=True):
        numbers[: len(logits)] = choose(logits, reference.suppressed, numbers[: len(logits)])
    return comparison.filled(rows, uniform, FREE)


def mixed_settings(comparison: Comparison, rows: Rows, tokens: int) -> Agreement:
    """Tokens of one call whose rows have different settings."""
    each = [MIXED[row % len(MIXED)] for row in range(len(rows))]
    time = max(map(len, rows)) if comparison.cloze else tokens
    uniform = np.random.default_rng(8).random((len(rows), time), np.float32)
    return (comparison.filled if comparison.cloze else comparison.generated)(rows, uniform, each)


# All tokens of the vocabulary: text may lack some.


def every_token(model: LanguageModel) -> Rows:
    """The whole vocabulary in short texts: steps cost more than rows."""
    size = model.vocab_size
    ids = np.random.default_rng(9).permutation(size)
    count = min(size // 2, max(20, MOST_LOGITS // size))
    return [row.astype(np.int64) for row in np.array_split(np.concatenate([ids, ids[:1]]), count)]


def every_token_generates(comparison: Comparison) -> Agreement:
    """Two tokens after each of these texts."""
    rows = every_token(comparison.reference.model)
    return comparison.generated(rows, np.random.default_rng(9).random((len(rows), 2), np.float32), FREE)


def every_token_steps(comparison: Comparison) -> None:
    """One step of each token, from states of zeros."""
    model = comparison.reference.model
    ids = np.random.default_rng(9).permutation(model.vocab_size)
    for part in np.array_split(ids, math.ceil(len(ids) ** 2 / MOST_LOGITS)):
        comparison.step(part, model.initial_state(len(part)))


# Numbers that rounding turns on.


def short_texts(model: LanguageModel) -> Rows:
    """Texts of random tokens, as many as memory allows.

    A last bit of some sum, or what half a step is rounded to, shows in one of 100,000 numbers.
    """
    numbers = sum(math.prod(shape) for shape in model.recurrence.state_spec.values())
    rows = max(20, min(NUMBERS // numbers, MOST_LOGITS // model.vocab_size) // SHORT)
    return list(np.random.default_rng(10).integers(0, model.vocab_size, (rows, SHORT)))


def short_texts_filled(comparison: Comparison) -> None:
    """Log-probabilities of filler.onnx, of the tokens that it draws for these texts."""
    texts = short_texts(comparison.reference.model)
    uniform = np.random.default_rng(10).random((len(texts), SHORT), np.float32)
    comparison.filled(texts, uniform, FREE)


def halves(comparison: Comparison) -> None:
    """One step from states where rounding decides: some input of a product lies between two whole numbers."""
    model, arithmetic = comparison.reference.model, comparison.reference.arithmetic
    assert arithmetic is not None
    for index, scale in enumerate(sorted({float(x) for x in arithmetic.scales()})):
        draw, state = np.random.default_rng(index), {}
        for name, shape in model.recurrence.state_spec.items():
            whole = draw.integers(-100, 100, (ROWS_OF_HALVES, *shape)).astype(np.float32)
            state[name] = torch.from_numpy((whole + np.float32(0.5)) * np.float32(scale))
        _from(comparison, draw.integers(2, model.vocab_size, ROWS_OF_HALVES), state)
    # What is computed from states cannot be set to a half: what is nearest is looked for in texts of random tokens.
    token, state = comparison.reference.beside_halves(torch.from_numpy(np.stack(short_texts(model))), ROWS_OF_HALVES)
    _from(comparison, token.numpy(), state)


def _from(comparison: Comparison, first: Int[np.ndarray, "rows"], before: State) -> None:
    """Compare one step from given states in every graph, and a second one after it."""
    rows, graphs, reference = len(first), comparison.graphs, comparison.reference
    comparison.step(first, before)
    draw = np.random.default_rng(rows)
    tokens = np.stack([first, draw.integers(2, reference.model.vocab_size, rows)], axis=1)
    state = {name: value.numpy() for name, value in before.items()}
    one, two = (torch.from_numpy(np.ascontiguousarray(column)) for column in tokens.T)
    after = reference.step(one, before)[1]
    if comparison.cloze:
        uniform, lengths = draw.random((rows, 2), np.float32), np.full(rows, 2)
        comparison.scored(list(tokens), before)
        comparison.filled(list(tokens), uniform, FREE, before)
        forwards, backwards = reference.step(two, after)[1], reference.step(one, reference.step(two, before)[1])[1]
        ends = {name: (forwards if name.startswith("left.") else backwards)[name] for name in before}
        comparison.states(graphs.score(tokens, lengths, state)[1], ends, "of scorer.onnx")
        comparison.states(graphs.fill(tokens, lengths, uniform, FREE, state)[2], ends, "of filler.onnx")
        return
    number = np.full((rows, 1), 0.5, np.float32)
    for sampling in (FREE, MIXED[1]):  # for either loop
        comparison.states(graphs.generate(tokens[:, :1], number, sampling, state)[1], after, "of generator.onnx")
    comparison.states(graphs.score(tokens, np.full(rows, 2), state)[1], after, "of scorer.onnx")
    last = reference.step(two, after)[1]
    comparison.states(graphs.generate(tokens, number, FREE, state)[1], last, "of generator.onnx after a prompt")
