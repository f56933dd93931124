"""Which numbers a model is rounded to: found while it reads text of the train split."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from recurlm.config import Export, Precision
from recurlm.export.calibrate import Inputs, Observer
from recurlm.export.graphs import Builder, Kept
from recurlm.export.quantize import Product, Rounding
from recurlm.export.rounding import eight_bits, four_bits
from recurlm.model import LanguageModel

ROWS = 32  # of text, read side by side


def rounding_for(
    model: LanguageModel, settings: Export, precision: Precision, ids: Integer[np.ndarray, "time"], kept: Kept
) -> Rounding | None:
    """How to write `model` in a precision; None for fp32.

    Args:
        ids: text to calibrate on, of which `settings.calibration_tokens` are read.
        kept: from one precision to the next of the same model, settings and text.
    """
    if precision == "fp32":
        return None
    if not kept.inputs:
        builder = Builder(model, [], settings, kept=kept)
        observer = Observer(settings.opset, settings.ir_version)
        rows = _rows(ids, settings.calibration_tokens)
        if model.causal:
            _read(builder, observer, rows)
        else:
            _read_both_sides(builder, observer, rows)
        kept.inputs = observer.inputs
    return Rounding({key: _rounded(found, settings, precision) for key, found in kept.inputs.items()})


def _rounded(inputs: Inputs, settings: Export, precision: Precision) -> Product:
    if precision == "int8":
        return eight_bits(inputs.weights, inputs.largest)
    return four_bits(inputs.weights, inputs.mean(), inputs.largest, settings.group_size)


def _rows(ids: Integer[np.ndarray, "time"], tokens: int) -> Int[np.ndarray, "row length"]:
    """Pieces of the text from all over it; a short text is read again."""
    length = max(tokens // ROWS, 1)
    begins = np.linspace(0, max(len(ids) - length, 0), ROWS).astype(np.int64)
    return np.stack([np.resize(ids[begin : begin + length], length) for begin in begins]).astype(np.int64)


def _read(builder: Builder, observer: Observer, rows: Int[np.ndarray, "row length"]) -> None:
    state = _zeros(builder, "")
    calls = ({"token": tokens, **state} for tokens in rows.T)
    observer.run(builder.step(), calls, builder.model.recurrence.state_spec)


def _read_both_sides(builder: Builder, observer: Observer, rows: Int[np.ndarray, "row length"]) -> None:
    known = {}
    for side, text in (("left", rows), ("right", rows[:, ::-1])):
        state = _zeros(builder, f"{side}.")
        names = [name.removeprefix("state.") for name in state]
        known[side] = observer.run(builder.half(side), ({"token": tokens, **state} for tokens in text.T), names)
    pairs = zip(known["left"], known["right"][::-1], strict=True)
    observer.run(builder.decode(), ({"left": left, "right": right} for left, right in pairs))


def _zeros(builder: Builder, prefix: str) -> dict[str, Any]:
    spec = builder.model.recurrence.state_spec
    return {
        f"state.{name}": np.zeros((ROWS, *shape), np.float32) for name, shape in spec.items() if name.startswith(prefix)
    }
