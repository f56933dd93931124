"""How far gates are open while text is read: the share of activations that are closed, or open, all the way."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recurlm import config
from recurlm.evaluation.perplexity import exact
from recurlm.model import LanguageModel


def activations(model: LanguageModel, tokens: Int[np.ndarray, "windows time"]) -> dict[str, Float[Tensor, "time ..."]]:
    """Gate → its activations [time, windows, hidden], reading each window from a zero state.

    The stack of a cloze model that reads from the right gets the windows from the right.
    """
    text = torch.from_numpy(tokens).to(model.embedding.weight.device)
    with exact(model):
        found = _walk(model, text)
        if not model.causal:
            reverse = _walk(model, text.flip(1))
            found = {name: reverse[name] if name.startswith("right.") else value for name, value in found.items()}
    return found


def _walk(model: LanguageModel, tokens: Int[Tensor, "windows time"]) -> dict[str, Tensor]:
    state, rows = model.initial_state(len(tokens)), []
    for token in tokens.unbind(1):
        x = model.embed(token)
        rows.append(model.recurrence.gate_activations(x, state))
        _, state = model.recurrence.step(x, state)
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]} if rows else {}


def measure(model: LanguageModel, tokens: Int[np.ndarray, "windows time"], settings: config.Gates) -> dict[str, Any]:
    """For each gate and layer its mean and the shares that are saturated; and of its units those that always are."""
    rows = []
    for name, found in activations(model, tokens).items() if len(tokens) else ():
        layer, _, gate = name.rpartition(".")
        closed, opened = (found < settings.low).double(), (found > settings.high).double()
        rows.append(
            {
                "layer": layer,
                "gate": gate,
                "mean": float(found.double().mean()),
                "fraction_closed": float(closed.mean()),
                "fraction_open": float(opened.mean()),
                "units_always_closed": float((closed.mean(dim=(0, 1)) == 1).double().mean()),
                "units_always_open": float((opened.mean(dim=(0, 1)) == 1).double().mean()),
            }
        )
    return {
        "gates_in_a_cell": model.recurrence.gates,
        "told": bool(rows),
        "closed_below": settings.low,
        "open_above": settings.high,
        "activations_of_each": int(np.prod(tokens.shape)),
        "rows": rows,
    }
