"""The graphs of a folder, called with the arguments that a verification needs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from onnxruntime.capi import onnxruntime_pybind11_state as exceptions

from recurlm.config import Sampling
from recurlm.runtime.bundle import STATEFUL
from recurlm.runtime.session import GraphError, GraphSession, State
from recurlm.storage import read_json


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

        Raises:
            GraphError: onnxruntime stops with an error, as at an index that is out of range.
        """
        if name not in self._sessions:
            file, description = f"{name}.onnx", self._description
            spec = description["state_spec"] if file in STATEFUL[description["objective"]] else {}
            self._sessions[name] = GraphSession(self.folder / file, spec, self.threads)
        try:
            return self._sessions[name].run(None, feeds, state)
        except (exceptions.Fail, exceptions.InvalidArgument, exceptions.RuntimeException) as error:
            raise GraphError(f"{name}.onnx does not run: {' '.join(str(error).split())}") from None

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
    ) -> tuple[Int[np.ndarray, "batch new_time"], State]:
        """As many new tokens as there are uniform numbers a row.

        Args:
            lengths: of the prompts; left out, they fill their rows.
            more: optional inputs.
        """
        full = np.full(len(prompt), prompt.shape[1], np.int64)
        feeds = {
            "prompt": prompt,
            "prompt_length": full if lengths is None else lengths,
            "max_new_tokens": np.array(uniform.shape[1], np.int64),
            "uniform": uniform,
        }
        results, after = self.call("generator", feeds | settings_of(sampling, len(prompt)) | dict(more or {}), state)
        return results["tokens"], after

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
        sampling: Sampling,
    ) -> Int[np.ndarray, "batch time"]:
        return self.fill_and_score(tokens, length, uniform, sampling)[0]

    def fill_and_score(
        self,
        tokens: Int[np.ndarray, "batch time"],
        length: Int[np.ndarray, "batch"],
        uniform: Float[np.ndarray, "batch time"],
        sampling: Sampling | Sequence[Sampling],
    ) -> tuple[Int[np.ndarray, "batch time"], Float[np.ndarray, "batch time"]]:
        """The drawn tokens, and the log-probability of each."""
        feeds = {"tokens": tokens, "length": length, "uniform": uniform} | settings_of(sampling, len(tokens))
        results, _ = self.call("filler", feeds)
        return results["filled"], results["log_prob"]


def settings_of(sampling: Sampling | Sequence[Sampling], batch: int) -> dict[str, np.ndarray[Any, Any]]:
    """The inputs of one setting for all rows, or of one for each row."""
    rows = [sampling] * batch if isinstance(sampling, Sampling) else sampling
    return {
        "temperature": np.array([row.temperature for row in rows], np.float32),
        "top_k": np.array([row.top_k for row in rows], np.int64),
        "top_p": np.array([row.top_p for row in rows], np.float32),
    }
