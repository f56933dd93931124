"""The graphs of a folder, called with the arguments that a verification needs; and the held-out text they read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from jaxtyping import Float, Int, Integer
from onnx import TensorProto
from onnx.helper import make_tensor_value_info
from onnxruntime.capi import onnxruntime_pybind11_state as exceptions

from recurlm.config import Sampling
from recurlm.runtime.bundle import STATEFUL
from recurlm.runtime.session import GraphError, GraphSession, State
from recurlm.storage import read_json

PROMPTS = 20  # of a verification
LONGEST = 64  # tokens of a prompt


class Graphs:
    """The graphs that the stage export wrote into a folder, each loaded at its first call."""

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self.folder = folder
        self.threads = threads
        self._description: dict[str, Any] = read_json(folder / "graphs.json")
        self._sessions: dict[str, GraphSession] = {}

    def call(
        self, name: str, feeds: Mapping[str, Any], state: State | None = None
    ) -> tuple[dict[str, np.ndarray[Any, Any]], State]:
        """Run `<name>.onnx` from a state (None: zeros): its outputs by name, and the next state.

        A cloze model's scorer and filler take no state and give none: where one is given, a copy of the graph runs
        whose loops begin with it, and whose outputs are also the states that they end with.

        Raises:
            GraphError: onnxruntime stops with an error, as at an index that is out of range.
        """
        file, description = f"{name}.onnx", self._description
        spec = description["state_spec"] if file in STATEFUL[description["objective"]] else {}
        try:
            if state and not spec:
                return self._run_from(file, feeds, state)
            if name not in self._sessions:
                self._sessions[name] = GraphSession(self.folder / file, spec, self.threads)
            return self._sessions[name].run(None, feeds, state)
        except (exceptions.Fail, exceptions.InvalidArgument, exceptions.RuntimeException) as error:
            raise GraphError(f"{name}.onnx does not run: {' '.join(str(error).split())}") from None

    def _run_from(
        self, file: str, feeds: Mapping[str, Any], state: State
    ) -> tuple[dict[str, np.ndarray[Any, Any]], State]:
        """Run a graph whose loops begin with states of zeros, from other ones: all else in it stays as it is."""
        model = onnx.load(self.folder / file)
        outputs, spec = [output.name for output in model.graph.output], self._description["state_spec"]
        carried = [
            (node, at) for node in model.graph.node if node.op_type == "Loop" for at in range(2, len(node.input))
        ]
        for (node, at), (name, shape) in zip(carried, spec.items(), strict=True):
            node.input[at], node.output[at - 2] = f"state.{name}", f"next_state.{name}"  # nothing reads the latter
            for end, value in ((model.graph.input, node.input[at]), (model.graph.output, node.output[at - 2])):
                end.append(make_tensor_value_info(value, TensorProto.FLOAT, ["batch", *shape]))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.log_severity_level = 3
        session = onnxruntime.InferenceSession(model.SerializeToString(), options)
        given = {**feeds, **{f"state.{name}": value for name, value in state.items()}}
        names = [*outputs, *(f"next_state.{name}" for name in spec)]
        results = dict(zip(names, session.run(names, given), strict=True))
        return results, {name: results.pop(f"next_state.{name}") for name in spec}

    def weights(self, name: str) -> dict[bytes, str]:
        """Each array of numbers in `<name>.onnx`, by its shape and bytes; zeros and masks of −inf are no weights."""
        arrays = {}
        for tensor in _tensors(onnx.load(self.folder / f"{name}.onnx").graph):
            array = onnx.numpy_helper.to_array(tensor)
            if array.dtype == np.float32 and array.size > 1 and array.any() and np.isfinite(array).all():
                arrays[repr(array.shape).encode() + array.tobytes()] = f"'{tensor.name}' {list(array.shape)}"
        return arrays

    def step(
        self, token: Int[np.ndarray, "batch"], state: State
    ) -> tuple[Float[np.ndarray, "batch vocabulary"], State]:
        results, after = self.call("step", {"token": token}, state)
        return results["logits"], after

    def generate(
        self,
        prompt: Int[np.ndarray, "batch time"],
        uniform: Float[np.ndarray, "batch new_time"],
        sampling: Sampling | Sequence[Sampling],
        state: State | None = None,
        lengths: Int[np.ndarray, "batch"] | None = None,
        more: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> tuple[dict[str, np.ndarray[Any, Any]], State]:
        """As many new `tokens` as there are uniform numbers a row, among all outputs by name.

        Args:
            lengths: of the prompts; left out, they fill their rows.
            more: optional inputs.
        """
        feeds = {
            "prompt": prompt,
            "prompt_length": np.full(len(prompt), prompt.shape[1]) if lengths is None else lengths,
            "max_new_tokens": np.array(uniform.shape[1]),
            "uniform": uniform,
        }
        return self.call("generator", feeds | settings_of(sampling, len(prompt)) | dict(more or {}), state)

    def score(
        self, tokens: Int[np.ndarray, "batch time"], length: Int[np.ndarray, "batch"], state: State | None = None
    ) -> tuple[Float[np.ndarray, "batch scored"], State]:
        results, after = self.call("scorer", {"tokens": tokens, "length": length}, state)
        return results["log_prob"], after

    def fill(
        self,
        tokens: Int[np.ndarray, "batch time"],
        length: Int[np.ndarray, "batch"],
        uniform: Float[np.ndarray, "batch time"],
        sampling: Sampling | Sequence[Sampling],
        state: State | None = None,
    ) -> tuple[Int[np.ndarray, "batch time"], Float[np.ndarray, "batch time"], State]:
        """The drawn tokens, and the log-probability of each; and the states after the text, where some are given."""
        feeds = {"tokens": tokens, "length": length, "uniform": uniform} | settings_of(sampling, len(tokens))
        results, after = self.call("filler", feeds, state)
        return results["filled"], results["log_prob"], after


def _tensors(graph: onnx.GraphProto) -> Iterator[onnx.TensorProto]:
    """Of a graph and of the graphs within its nodes."""
    yield from graph.initializer
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                yield attribute.t
            elif attribute.type == onnx.AttributeProto.GRAPH:
                yield from _tensors(attribute.g)


def settings_of(sampling: Sampling | Sequence[Sampling], batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs of one setting for all rows, or of one for each row."""
    rows = [sampling] * batch if isinstance(sampling, Sampling) else sampling
    return {
        "temperature": np.array([row.temperature for row in rows], np.float32),
        "top_k": np.array([row.top_k for row in rows], np.int64),
        "top_p": np.array([row.top_p for row in rows], np.float32),
    }


def prompts_of(text: Integer[np.ndarray, "time"]) -> list[Int[np.ndarray, "_"]]:
    """PROMPTS prompts of 1 to LONGEST tokens, no two of one length. Text that is too short is read again."""
    lengths = np.linspace(1, LONGEST, PROMPTS).astype(np.int64)
    return pieces(text, lengths.tolist())


def texts_of(text: Integer[np.ndarray, "time"], tokens: int) -> list[Int[np.ndarray, "_"]]:
    """PROMPTS texts of different lengths, `tokens` in all, or a few more: for models that fill masks."""
    lengths = np.ceil(np.linspace(0.5, 1.5, PROMPTS) * tokens / PROMPTS).astype(np.int64)
    return pieces(text, lengths.tolist())


def pieces(text: Integer[np.ndarray, "time"], lengths: list[int]) -> list[Int[np.ndarray, "_"]]:
    """Pieces of such lengths that begin at equal distances."""
    begins = np.linspace(0, max(len(text) - max(lengths), 0), len(lengths)).astype(np.int64)
    return [
        np.resize(text[begin : begin + length], length).astype(np.int64)
        for begin, length in zip(begins, lengths, strict=True)
    ]


def padded(
    rows: list[Int[np.ndarray, "_"]], filler: int = 0
) -> tuple[Int[np.ndarray, "rows time"], Int[np.ndarray, "rows"]]:
    """Rows of different lengths as one array, `filler` behind their ends, and the lengths."""
    lengths = np.array([len(row) for row in rows], np.int64)
    tokens = np.full((len(rows), int(lengths.max())), filler, np.int64)
    for row, ids in zip(tokens, rows, strict=True):
        row[: len(ids)] = ids
    return tokens, lengths
