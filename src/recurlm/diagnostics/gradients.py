"""Gradient flow: the norm of the gradient of the loss at step t with respect to inputs and states at step t − k.

Where it vanishes with k, dependencies of that length are not learned (Bengio, Simard & Frasconi 1994; Pascanu, Mikolov
& Bengio 2013, arXiv:1211.5063). The recurrence is unrolled with `step`, and one backward pass gives all k.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.evaluation.perplexity import exact
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.variants.base import Recurrence, State

VANISHED = 0.01  # of the norm one step back


class Flow(NamedTuple):
    """Gradient norms for each distance and window; a cloze model's columns are the left sides, then the right ones."""

    k: list[int]
    inputs: Float[np.ndarray, "distances windows"]
    """With respect to the embedded token at t − k."""
    states: dict[str, Float[np.ndarray, "distances windows"]]
    """With respect to each tensor of the state after that token, and to all of them together ("state"). The state after
    the last token, k = 0, is not used: NaN."""


def flow(model: LanguageModel, tokens: Int[np.ndarray, "windows time"]) -> Flow:
    """Gradient norms of one loss a window, from a zero state.

    A causal model predicts the last token; k = 0 is the token before it. A cloze model predicts the middle one; k = 1
    is its neighbour on either side.
    """
    objective, device = objective_of(model), model.embedding.weight.device
    before, target, after = (
        torch.from_numpy(np.ascontiguousarray(part)).to(device) for part in objective.around(tokens)
    )
    with exact(model), torch.enable_grad():
        sides = [
            _Unrolled(model, recurrence, objective.toward_target(side, before, after), objective.both_sides)
            for side, recurrence in objective.sides(model.recurrence).items()
        ]
        y = torch.cat([side.y for side in sides], dim=-1)
        F.cross_entropy(model.decode(y), target, reduction="sum").backward()  # type: ignore[no-untyped-call]
    norms = [side.norms() for side in sides]
    joined = {name: np.concatenate([side[name] for side in norms], axis=1) for name in norms[0]}
    nearest = int(objective.both_sides)
    if not nearest:
        for name in joined.keys() - {"input"}:
            joined[name][0] = np.nan
    return Flow(list(range(nearest, nearest + before.shape[1])), joined.pop("input"), joined)


def let_through(model: LanguageModel) -> bool:
    """Draw the projection of a fresh model where it is zero, as that of tied residual blocks is; whether it was.

    No gradient passes a zero: the flow would be 0 at every distance, whatever the recurrence.
    """
    projection = model.projection
    if not isinstance(projection, nn.Linear) or projection.weight.any():
        return False
    nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
    return True


class _Unrolled:
    """A recurrence unrolled over tokens; inputs and states retain their gradients."""

    def __init__(
        self, model: LanguageModel, recurrence: Recurrence, tokens: Int[Tensor, "windows time"], carry_output: bool
    ) -> None:
        """`carry_output`: the last output is a state too, named "output", as in `Bidirectional`."""
        state = recurrence.initial_state(len(tokens))
        self.inputs: list[Tensor] = []
        self.states: list[State] = []
        for token in tokens.unbind(1):
            x = model.embed(token).detach().requires_grad_()
            self.y, state = recurrence.step(x, state)
            # A clone, so that its gradient leaves out what the layers above read of it within the same step.
            carried = {name: value.clone() for name, value in state.items()}
            if carry_output:
                self.y = carried["output"] = self.y.clone()
            for value in carried.values():
                if value.requires_grad:  # not what only counts tokens, such as a position
                    value.retain_grad()
            self.inputs.append(x)
            self.states.append(carried)
            state = carried

    def norms(self) -> dict[str, Float[np.ndarray, "distances windows"]]:
        """Of inputs ("input"), of each tensor of the state, and of all of them ("state"); nearest first."""
        norms = {"input": np.stack([_norm(x) for x in reversed(self.inputs)])}
        for name in self.states[0]:
            norms[name] = np.stack([_norm(state[name]) for state in reversed(self.states)])
        squares = [norms[name] ** 2 for name in self.states[0]]
        return norms | {"state": np.sqrt(np.sum(squares, axis=0))}


def _norm(value: Tensor) -> Float[np.ndarray, "windows"]:
    """The norm of each row's gradient; zero where there is none."""
    gradient = torch.zeros_like(value) if value.grad is None else value.grad
    return np.asarray(gradient.double().flatten(1).norm(dim=1).cpu().numpy())


def describe(flow: Flow) -> dict[str, Any]:
    """Means and medians over the windows for each k, and the distance at which the gradient has vanished."""
    state = flow.states["state"]
    return {
        "k": flow.k,
        "input_mean": rounded(flow.inputs.mean(axis=1)),
        "input_median": rounded(np.median(flow.inputs, axis=1)),
        "state_mean": rounded(state.mean(axis=1)),
        "state_median": rounded(np.median(state, axis=1)),
        "parts_of_the_state_mean": {
            name: rounded(value.mean(axis=1)) for name, value in flow.states.items() if name != "state"
        },
        "vanished_at": vanished_at(flow.k, state.mean(axis=1)),
    }


def vanished_at(k: list[int], norms: Float[np.ndarray, "distances"]) -> int | None:
    """The smallest k from which on the norm stays below `VANISHED` of that at k = 1; None if it never does."""
    if 1 not in k:
        return None
    above = np.flatnonzero(norms >= VANISHED * norms[k.index(1)])
    first = int(above[-1]) + 1 if len(above) else 0
    return k[first] if first < len(k) else None


def rounded(values: Float[np.ndarray, "values"]) -> list[float | None]:
    """Values with five significant digits; None for NaN, which JSON lacks."""
    return [None if np.isnan(value) else float(f"{value:.4e}") for value in values]
