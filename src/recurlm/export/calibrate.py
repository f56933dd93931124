"""Calibration: the inputs of a model's products while it reads text, and the quantizer that follows from them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import onnx
import onnxruntime
from jaxtyping import Int, Integer
from onnx import TensorProto, helper, numpy_helper

from recurlm.config import Export, Precision
from recurlm.export.graphs import Builder, ExportCache
from recurlm.export.quantize import Inputs, Product, Quantizer, quantize_int4, quantize_int8
from recurlm.export.rewriter import Array, key_of, product_weights
from recurlm.model import LanguageModel
from recurlm.objective import bidirectional, objective_of

ROWS = 32  # of text, read side by side


def quantizer_for(
    model: LanguageModel,
    settings: Export,
    precision: Precision,
    ids: Integer[np.ndarray, "time"] | None,
    cache: ExportCache,
) -> Quantizer | None:
    """The quantizer of a model in a precision; None for fp32.

    Args:
        ids: text to calibrate on, of which `settings.calibration_tokens` are read.
        cache: from one precision to the next of the same model, settings and text.
    """
    if precision == "fp32":
        return None
    if not cache.inputs:
        if ids is None:
            raise ValueError(f"{precision} needs text to calibrate on")
        cache.inputs = _Observer(Builder(model, [], settings, cache=cache)).read(ids)

    def quantized(inputs: Inputs) -> Product:
        if precision == "int8":
            return quantize_int8(inputs.weights, inputs.largest)
        return quantize_int4(inputs.weights, inputs.mean(), inputs.largest, settings.group_size)

    return Quantizer({key: quantized(inputs) for key, inputs in cache.inputs.items()})


class _Observer:
    """Runs graphs and collects statistics of the inputs of their products. A product is identified by its weights."""

    def __init__(self, builder: Builder) -> None:
        self.builder = builder
        self.inputs: dict[str, Inputs] = {}

    def read(self, ids: Integer[np.ndarray, "time"]) -> dict[str, Inputs]:
        builder, recurrence = self.builder, self.builder.model.recurrence
        rows = _rows(ids, builder.settings.calibration_tokens)
        if not objective_of(builder.model).both_sides:
            self._run(builder.step, rows, builder.names)
            return self.inputs
        known = {}
        for side, text in (("left", rows), ("right", rows[:, ::-1])):
            names = bidirectional(recurrence).states_of(side)
            known[side] = self._run(builder.side(side), text, names, output=f"state.{side}.output")
        session, watched = self._watched(builder.decode())
        for left, right in zip(known["left"], known["right"][::-1], strict=True):
            self._call(session, watched, {"left": left, "right": right})
        return self.inputs

    def _run(
        self, graph: onnx.GraphProto, rows: Int[np.ndarray, "row length"], names: list[str], output: str = ""
    ) -> list[Array]:
        """Run a graph token by token, from zeros; returns the state `output` before each, where one is named."""
        session, watched = self._watched(graph)
        zeros = self.builder.model.initial_state(ROWS)
        state = {f"state.{name}": zeros[name].numpy() for name in names}
        outputs = []
        for tokens in rows.T:
            outputs += [state[output]] if output else []
            results = self._call(session, watched, {"token": tokens, **state})
            state = {f"state.{name}": results[f"next_state.{name}"] for name in names}
        return outputs

    def _watched(self, graph: onnx.GraphProto) -> tuple[onnxruntime.InferenceSession, dict[str, Inputs]]:
        """A session that gives the inputs of a graph's products too; by output name, where they are counted."""
        graph_ = onnx.GraphProto()
        graph_.CopyFrom(graph)
        weights = {weight.name: numpy_helper.to_array(weight) for weight in graph.initializer}
        watched: dict[str, Inputs] = {}
        for node in graph.node:
            matrix = product_weights(node, weights)
            if matrix is not None:
                name = f"observed.{len(watched)}"
                graph_.node.append(helper.make_node("Identity", [node.input[0]], [name]))
                graph_.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
                watched[name] = self.inputs.setdefault(key_of(matrix), Inputs(matrix))
        settings = self.builder.settings
        opset = [helper.make_opsetid("", settings.opset)]
        model = helper.make_model(graph_, opset_imports=opset, ir_version=settings.ir_version)
        return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]), watched

    @staticmethod
    def _call(
        session: onnxruntime.InferenceSession, watched: Mapping[str, Inputs], feeds: Mapping[str, Array]
    ) -> dict[str, Any]:
        names = [output.name for output in session.get_outputs()]
        results = dict(zip(names, session.run(names, feeds), strict=True))
        for output, inputs in watched.items():
            inputs.add(results[output])
        return results


def _rows(ids: Integer[np.ndarray, "time"], tokens: int) -> Int[np.ndarray, "row length"]:
    """Pieces of the text from all over it; a short text is read again."""
    length = max(tokens // ROWS, 1)
    begins = np.linspace(0, max(len(ids) - length, 0), ROWS).astype(np.int64)
    return np.stack([np.resize(ids[begin : begin + length], length) for begin in begins]).astype(np.int64)
