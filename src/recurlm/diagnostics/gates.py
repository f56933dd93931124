"""Gate activations while text is read: their means, and the fractions that are saturated."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from recurlm import config
from recurlm.evaluation.perplexity import exact
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.variants.base import Recurrence


def activations(model: LanguageModel, tokens: Int[np.ndarray, "windows time"]) -> dict[str, Float[Tensor, "time ..."]]:
    """Gate → its activations [time, windows, …]; windows are read from a zero state, in each side's direction."""
    text = torch.from_numpy(tokens).to(model.embedding.weight.device)
    objective = objective_of(model)
    activations: dict[str, Tensor] = {}
    with exact(model):
        for side, recurrence in objective.sides(model.recurrence).items():
            rows = _read(model, recurrence, objective.toward_target(side, text, text))
            prefix = f"{side}." if side else ""
            activations |= {f"{prefix}{name}": torch.stack([row[name] for row in rows]) for name in rows[0]}
    return activations


def _read(model: LanguageModel, recurrence: Recurrence, tokens: Int[Tensor, "windows time"]) -> list[dict[str, Tensor]]:
    state, rows = recurrence.initial_state(len(tokens)), []
    for token in tokens.unbind(1):
        x = model.embed(token)
        rows.append(recurrence.gate_activations(x, state))
        _, state = recurrence.step(x, state)
    return rows


def measure(model: LanguageModel, tokens: Int[np.ndarray, "windows time"], settings: config.Gates) -> dict[str, Any]:
    """Mean and saturated fractions of each gate of each layer, and the fraction of units that are always saturated."""
    rows = []
    for name, values in activations(model, tokens).items() if len(tokens) else ():
        layer, _, gate = name.rpartition(".")
        closed, opened = (values < settings.low).double(), (values > settings.high).double()
        rows.append(
            {
                "layer": layer,
                "gate": gate,
                "mean": float(values.double().mean()),
                "fraction_closed": float(closed.mean()),
                "fraction_open": float(opened.mean()),
                "units_always_closed": float((closed.mean(dim=(0, 1)) == 1).double().mean()),
                "units_always_open": float((opened.mean(dim=(0, 1)) == 1).double().mean()),
            }
        )
    return {
        "gates_in_a_cell": model.recurrence.gates,
        "reported": bool(rows),
        "closed_below": settings.low,
        "open_above": settings.high,
        "activations_of_each": int(np.prod(tokens.shape)),
        "rows": rows,
    }
