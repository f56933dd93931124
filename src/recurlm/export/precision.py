"""Calibration on text of the train split, and the quantizer that follows from it."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Int, Integer

from recurlm.config import Export, Precision
from recurlm.export.calibrate import Inputs, Observer
from recurlm.export.graphs import Builder, ExportCache
from recurlm.export.quantization import quantize_int4, quantize_int8
from recurlm.export.quantize import Product, Quantizer
from recurlm.model import LanguageModel
from recurlm.objective import bidirectional, objective_of

ROWS = 32  # of text, read side by side


def quantizer_for(
    model: LanguageModel, settings: Export, precision: Precision, ids: Integer[np.ndarray, "time"], cache: ExportCache
) -> Quantizer | None:
    """The quantizer of a model in a precision; None for fp32.

    Args:
        ids: text to calibrate on, of which `settings.calibration_tokens` are read.
        cache: from one precision to the next of the same model, settings and text.
    """
    if precision == "fp32":
        return None
    if not cache.inputs:
        builder = Builder(model, [], settings, cache=cache)
        observer = Observer(settings.opset, settings.ir_version)
        rows = _rows(ids, settings.calibration_tokens)
        if objective_of(model).both_sides:
            _read_both_sides(builder, observer, rows)
        else:
            _read(builder, observer, rows)
        cache.inputs = observer.inputs
    return Quantizer({key: _quantized(inputs, settings, precision) for key, inputs in cache.inputs.items()})


def _quantized(inputs: Inputs, settings: Export, precision: Precision) -> Product:
    if precision == "int8":
        return quantize_int8(inputs.weights, inputs.largest)
    return quantize_int4(inputs.weights, inputs.mean(), inputs.largest, settings.group_size)


def _rows(ids: Integer[np.ndarray, "time"], tokens: int) -> Int[np.ndarray, "row length"]:
    """Pieces of the text from all over it; a short text is read again."""
    length = max(tokens // ROWS, 1)
    begins = np.linspace(0, max(len(ids) - length, 0), ROWS).astype(np.int64)
    return np.stack([np.resize(ids[begin : begin + length], length) for begin in begins]).astype(np.int64)


def _read(builder: Builder, observer: Observer, rows: Int[np.ndarray, "row length"]) -> None:
    names = list(builder.model.recurrence.state_spec)
    state = _zeros(builder, names)
    observer.run(builder.step(), ({"token": tokens, **state} for tokens in rows.T), names)


def _read_both_sides(builder: Builder, observer: Observer, rows: Int[np.ndarray, "row length"]) -> None:
    recurrence = bidirectional(builder.model.recurrence)
    known = {}
    for side, text in (("left", rows), ("right", rows[:, ::-1])):
        names, output = recurrence.states_of(side), f"{side}.output"
        state = _zeros(builder, names)
        calls = ({"token": tokens, **state} for tokens in text.T)
        after = observer.run(builder.side(side), calls, names, collect=f"next_state.{output}")
        known[side] = [state[f"state.{output}"], *after[:-1]]  # what predicts a token is the output before it
    pairs = zip(known["left"], known["right"][::-1], strict=True)
    observer.run(builder.decode(), ({"left": left, "right": right} for left, right in pairs))


def _zeros(builder: Builder, names: list[str]) -> dict[str, Any]:
    spec = builder.model.recurrence.state_spec
    return {f"state.{name}": np.zeros((ROWS, *spec[name]), np.float32) for name in names}
