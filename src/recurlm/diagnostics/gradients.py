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
from recurlm.variants.base import State

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
    with exact(model), torch.enable_grad():
        wanted = torch.from_numpy(tokens).to(model.embedding.weight.device)
        if model.causal:
            walk = _Walk(model, wanted[:, :-1])
            _backward(model, walk.y, wanted[:, -1])
            found = _collect(range(tokens.shape[1] - 1), [walk.norms("")])
            for norms in found.states.values():
                norms[0] = np.nan
            return found
        middle = (tokens.shape[1] - 1) // 2
        left = _Walk(model, wanted[:, :middle])
        right = _Walk(model, wanted[:, middle + 1 : 2 * middle + 1].flip(1))
        # What a step of a cloze model says is what was known before it: both halves of it, each from its own walk.
        known = [model.recurrence.step(walk.inputs[-1], walk.states[-1])[0] for walk in (left, right)]
        y = torch.cat([known[0].chunk(2, dim=-1)[0], known[1].chunk(2, dim=-1)[1]], dim=-1)
        _backward(model, y, wanted[:, middle])
        return _collect(range(1, middle + 1), [left.norms("left."), right.norms("right.")])


class _Walk:
    """A recurrence unrolled over tokens; inputs and states keep their gradients."""

    def __init__(self, model: LanguageModel, tokens: Int[Tensor, "windows time"]) -> None:
        state = model.initial_state(len(tokens))
        self.inputs: list[Tensor] = []
        self.states: list[State] = []
        for token in tokens.unbind(1):
            x = model.embed(token).detach().requires_grad_()
            self.y, state = model.recurrence.step(x, state)
            # What is carried on, apart from what the layers above read of it within the same step.
            state = {name: value.clone() for name, value in state.items()}
            for value in state.values():
                value.retain_grad()
            self.inputs.append(x)
            self.states.append(state)

    def norms(self, side: str) -> dict[str, Float[np.ndarray, "distances windows"]]:
        """Nearest first; parts of the state of one side of a cloze model, without the side in their names."""
        names = [name for name in self.states[0] if name.startswith(side)]
        found = {"input": np.stack([_norm(x) for x in reversed(self.inputs)])}
        for name in names:
            found[name.removeprefix(side)] = np.stack([_norm(state[name]) for state in reversed(self.states)])
        squares = [found[name.removeprefix(side)] ** 2 for name in names]
        return found | {"state": np.sqrt(np.sum(squares, axis=0))}


def _norm(value: Tensor) -> Float[np.ndarray, "windows"]:
    """What nothing flows back to has no gradient: zero."""
    gradient = torch.zeros_like(value) if value.grad is None else value.grad
    return np.asarray(gradient.double().flatten(1).norm(dim=1).cpu().numpy())


def _backward(model: LanguageModel, y: Float[Tensor, "windows output"], target: Int[Tensor, "windows"]) -> None:
    loss = F.cross_entropy(model.decode(y), target, reduction="sum")
    loss.backward()  # type: ignore[no-untyped-call]


def _collect(k: range, sides: list[dict[str, np.ndarray]]) -> Flow:
    joined = {name: np.concatenate([side[name] for side in sides], axis=1) for name in sides[0]}
    return Flow(list(k), joined.pop("input"), joined)


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
