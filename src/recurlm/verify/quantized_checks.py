"""Checks of a bundle of 8 or 4 bits: onnxruntime against PyTorch that rounds likewise.

Where a number lies on the edge between two roundings, float error decides to which side it falls, and from there on two
states go different ways. So every step is compared from one and the same state, and a step may differ only if it held
such a number. Few do, so that nothing wrong in a graph can hide behind them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from recurlm.config import Sampling
from recurlm.objective import bidirectional
from recurlm.verify.checks import Agreement, VerificationError
from recurlm.verify.quantized import QuantizedProducts
from recurlm.verify.reference import Reference
from recurlm.verify.sessions import Graphs, State

EDGE = 1e-3  # of a step of the rounding: as far as float error may push a number
STEPS = 128  # in each of ROWS rows
ROWS = 3
FEWEST_EXACT = 0.9  # share of the steps


@dataclass(frozen=True)
class Steps:
    """Steps of step.onnx against steps of PyTorch, each from PyTorch's state."""

    compared: int
    exact: int  # within the tolerance
    largest_difference: float  # of those
    largest_on_an_edge: float  # of the others


def quantized_steps(
    reference: Reference, quantized: QuantizedProducts, graphs: Graphs, text: Int[np.ndarray, "time"], tolerance: float
) -> Steps:
    """Compare logits and states on rows of text.

    Raises:
        VerificationError: a step differs that holds no number on an edge, or too many differ.
    """
    rows = torch.from_numpy(np.stack([np.resize(text[17 * row :], STEPS) for row in range(ROWS)]))
    state = reference.model.initial_state(ROWS)
    differences, edges = [], []
    for token in rows.unbind(1):
        expected, after, on_edge = _step(reference, quantized, token, state)
        found, found_after = graphs.step(token.numpy(), {name: value.numpy() for name, value in state.items()})
        pairs = [(found, expected), *((found_after[name], value) for name, value in after.items())]
        differences.append(np.max([_largest_of_rows(a - b.numpy()) for a, b in pairs], axis=0))
        edges.append(on_edge)
        state = after
    difference = np.stack(differences)
    exact = difference <= tolerance
    if not (exact | np.stack(edges)).all():
        worst = float(difference[~np.stack(edges)].max())
        raise VerificationError(f"a step differs by {worst:.2e}, and held no number on the edge between two roundings")
    if exact.mean() < FEWEST_EXACT:
        raise VerificationError(f"only {exact.mean():.0%} of the steps are those of PyTorch")
    return Steps(
        compared=exact.size,
        exact=int(exact.sum()),
        largest_difference=float(difference[exact].max()),
        largest_on_an_edge=float(difference[~exact].max(initial=0.0)),
    )


def _largest_of_rows(difference: Float[np.ndarray, "batch *shape"]) -> Float[np.ndarray, "batch"]:
    """Of logits, or of a state of any rank."""
    return np.asarray(np.abs(difference).reshape(len(difference), -1).max(axis=1))


def quantized_tokens(
    reference: Reference,
    quantized: QuantizedProducts,
    graphs: Graphs,
    prompt: Int[np.ndarray, "time"],
    uniform: Float[np.ndarray, "new_time"],
    sampling: Sampling,
    error: float,
) -> Agreement:
    """The tokens of generator.onnx, or of filler.onnx for a text, are those that PyTorch draws from the same states.

    Raises:
        VerificationError: a token is another, and it is neither a near tie nor of a step with a number on an edge.
    """
    if reference.objective.both_sides:
        drawn = graphs.fill(prompt[None], np.array([len(prompt)]), uniform[None], sampling)[0]
        recurrence = bidirectional(reference.model.recurrence)
        left, right = _states(graphs, reference, prompt), _states(graphs, reference, prompt[::-1])
        states = {name: left[name] for name in recurrence.states_of("left")}
        states |= {name: right[name].flip(0) for name in recurrence.states_of("right")}
        read = prompt
    else:
        drawn = graphs.generate(prompt[None], uniform[None], sampling)[0][0]
        text = np.concatenate([prompt, drawn])[:-1]
        states = {name: value[len(prompt) - 1 :] for name, value in _states(graphs, reference, text).items()}
        read = text[len(prompt) - 1 :]
    logits, _, on_edge = _step(reference, quantized, torch.from_numpy(np.ascontiguousarray(read)), states)
    expected = reference.draw(logits, uniform, sampling).numpy()
    agreement = Agreement(len(drawn))
    for at in np.flatnonzero(drawn != expected):
        if not (on_edge[at] or reference.near_tie(logits[at], uniform[at], sampling, int(drawn[at]), error)):
            raise VerificationError(
                f"token {at} is {drawn[at]} in onnxruntime and {expected[at]} in PyTorch, from one state ({sampling})"
            )
        agreement.near_ties += 1
    if agreement.near_ties > (1 - FEWEST_EXACT) * agreement.tokens:
        raise VerificationError(
            f"{agreement.near_ties} of {agreement.tokens} tokens are others in PyTorch ({sampling})"
        )
    return agreement


def _step(
    reference: Reference, quantized: QuantizedProducts, token: Int[Tensor, "batch"], state: dict[str, Tensor]
) -> tuple[Float[Tensor, "batch vocabulary"], dict[str, Tensor], Bool[np.ndarray, "batch"]]:
    """A step of PyTorch, and which rows of it held a number on an edge."""
    quantized.margin = torch.full((len(token),), torch.inf)
    with quantized:
        logits, after = reference.model.step(token, state)
    return logits, after, quantized.margin.numpy() < EDGE


def _states(graphs: Graphs, reference: Reference, text: Int[np.ndarray, "time"]) -> dict[str, Any]:
    """step.onnx reads a text: the states before each of its tokens, one row a token."""
    state: State = {name: value.numpy() for name, value in reference.model.initial_state(1).items()}
    before = []
    for token in text:
        before.append(state)
        _, state = graphs.step(np.array([token]), state)
    return {name: torch.from_numpy(np.concatenate([state[name] for state in before])) for name in state}
