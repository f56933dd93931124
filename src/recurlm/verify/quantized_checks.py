"""Checks of an int8 or int4 bundle: onnxruntime against PyTorch with the same quantized products.

Where an input lies on a rounding edge, between two int8 values, float error decides which of them it becomes, and from
there on the states of both differ. So every step is compared from the same state, and a step may differ only if it had
an input on an edge. Few do, so that no error of a graph can hide behind them.
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
from recurlm.runtime.session import State
from recurlm.verify.checks import Agreement, VerificationError
from recurlm.verify.quantized import QuantizedProducts
from recurlm.verify.reference import Reference
from recurlm.verify.sessions import Graphs

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
        VerificationError: a step differs without an input on an edge, or too many differ.
    """
    rows = torch.from_numpy(np.stack([np.resize(text[17 * row :], STEPS) for row in range(ROWS)]))
    state = reference.model.initial_state(ROWS)
    differences, edges = [], []
    for token in rows.unbind(1):
        expected, after, on_edge = _step(reference, quantized, token, state)
        onnx_logits, onnx_after = graphs.step(token.numpy(), {name: value.numpy() for name, value in state.items()})
        pairs = [(onnx_logits, expected), *((onnx_after[name], value) for name, value in after.items())]
        differences.append(np.max([_largest_of_rows(a - b.numpy()) for a, b in pairs], axis=0))
        edges.append(on_edge)
        state = after
    difference = np.stack(differences)
    exact = difference <= tolerance
    if not (exact | np.stack(edges)).all():
        worst = float(difference[~np.stack(edges)].max())
        raise VerificationError(f"a step differs by {worst:.2e}, and has no input on a rounding edge")
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
    """Compare tokens of generator.onnx, or filler.onnx, with those that PyTorch draws from the same states.

    Raises:
        VerificationError: a token is another, and it is neither a near tie nor of a step with an input on an edge.
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
    for position in np.flatnonzero(drawn != expected):
        other = int(drawn[position])
        near_tie = reference.near_tie(logits[position], uniform[position], sampling, other, error)
        if not (on_edge[position] or near_tie):
            raise VerificationError(
                f"token {position} is {other} in onnxruntime and {expected[position]} in PyTorch, "
                f"from one state ({sampling})"
            )
        agreement.near_ties += 1
    if agreement.near_ties > (1 - FEWEST_EXACT) * agreement.tokens:
        raise VerificationError(
            f"{agreement.near_ties} of {agreement.tokens} tokens differ from those of PyTorch ({sampling})"
        )
    return agreement


def _step(
    reference: Reference, quantized: QuantizedProducts, token: Int[Tensor, "batch"], state: dict[str, Tensor]
) -> tuple[Float[Tensor, "batch vocabulary"], dict[str, Tensor], Bool[np.ndarray, "batch"]]:
    """Logits and states of a step of PyTorch, and which of its rows had an input on a rounding edge."""
    quantized.margin = torch.full((len(token),), torch.inf)
    with quantized:
        logits, after = reference.model.step(token, state)
    return logits, after, quantized.margin.numpy() < EDGE


def _states(graphs: Graphs, reference: Reference, text: Int[np.ndarray, "time"]) -> dict[str, Any]:
    """The states of step.onnx before each token of a text, one row a token."""
    state: State = {name: value.numpy() for name, value in reference.model.initial_state(1).items()}
    before = []
    for token in text:
        before.append(state)
        _, state = graphs.step(np.array([token]), state)
    return {name: torch.from_numpy(np.concatenate([state[name] for state in before])) for name in state}
