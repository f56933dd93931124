"""How far back a loss can teach: the gradient of the loss at step t with respect to what was there at step t − k.

Where it vanishes with k, no step of learning reaches that far (Bengio, Simard & Frasconi 1994; Pascanu, Mikolov &
Bengio 2013, arXiv:1211.5063). The recurrence is unrolled with `step`, one element after the other, and one backward
pass gives all k at once.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from recurlm.evaluation.perplexity import exact
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.variants.base import Recurrence, State

VANISHED = 0.01  # of the norm one step back


class Flow(NamedTuple):
    """Norms of gradients, for each distance and window; of a cloze model those of both sides, one after the other."""

    k: list[int]
    inputs: Float[np.ndarray, "distances windows"]
    """With respect to the embedded token at t − k."""
    states: dict[str, Float[np.ndarray, "distances windows"]]
    """With respect to each part of the state that was carried on after that token; "state" is all of it. Nothing is
    carried on after the last token, at k = 0: NaN."""


def flow(model: LanguageModel, tokens: Int[np.ndarray, "windows time"]) -> Flow:
    """The gradients of one loss a window, read from a zero state.

    A causal model reads all but the last token, which it predicts, and k = 0 is the last one read. A cloze model
    predicts the one in the middle; k = 1 is its neighbour, on either side.
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
    nearest = int(objective.both_sides)  # a neighbour is one step away; the token just read is none
    if not nearest:
        for name in joined.keys() - {"input"}:
            joined[name][0] = np.nan
    return Flow(list(range(nearest, nearest + before.shape[1])), joined.pop("input"), joined)


class _Unrolled:
    """A recurrence unrolled over tokens; inputs and states keep their gradients."""

    def __init__(
        self, model: LanguageModel, recurrence: Recurrence, tokens: Int[Tensor, "windows time"], carry_output: bool
    ) -> None:
        """`carry_output`: the last output is carried on too, as `Bidirectional` does, and counts as a state."""
        state = recurrence.initial_state(len(tokens))
        self.inputs: list[Tensor] = []
        self.states: list[State] = []
        for token in tokens.unbind(1):
            x = model.embed(token).detach().requires_grad_()
            self.y, state = recurrence.step(x, state)
            # What is carried on, apart from what the layers above read of it within the same step.
            carried = {name: value.clone() for name, value in state.items()}
            if carry_output:
                self.y = carried["output"] = self.y.clone()
            for value in carried.values():
                value.retain_grad()
            self.inputs.append(x)
            self.states.append(carried)
            state = carried

    def norms(self) -> dict[str, Float[np.ndarray, "distances windows"]]:
        """Of inputs, of each part of the state, and of the whole state; nearest first."""
        norms = {"input": np.stack([_norm(x) for x in reversed(self.inputs)])}
        for name in self.states[0]:
            norms[name] = np.stack([_norm(state[name]) for state in reversed(self.states)])
        squares = [norms[name] ** 2 for name in self.states[0]]
        return norms | {"state": np.sqrt(np.sum(squares, axis=0))}


def _norm(value: Tensor) -> Float[np.ndarray, "windows"]:
    """What nothing flows back to has no gradient: zero."""
    gradient = torch.zeros_like(value) if value.grad is None else value.grad
    return np.asarray(gradient.double().flatten(1).norm(dim=1).cpu().numpy())


def describe(flow: Flow) -> dict[str, Any]:
    """Curves over k, means and medians over the windows; and the distance at which one per cent is left."""
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
    """Five digits: more than a curve shows, and a fraction of the file; NaN, which JSON has not, is None."""
    return [None if np.isnan(value) else float(f"{value:.4e}") for value in values]
