"""onnxruntime sessions of a folder of graphs, called with the arguments that a verification needs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from jaxtyping import Float, Int

from recurlm.config import Sampling

State = dict[str, np.ndarray[Any, Any]]


class Graphs:
    """The graphs of a folder, each loaded at its first call."""

    def __init__(self, folder: Path, threads: int = 0) -> None:
        self.folder = folder
        self.options = onnxruntime.SessionOptions()
        self.options.log_severity_level = 3  # silence on state inputs that have defaults
        self.options.intra_op_num_threads = threads
        # As in recurlm.runtime: without VNNI, int8 products are otherwise added up in 16 bits, which overflow.
        self.options.add_session_config_entry("session.x64quantprecision", "1")
        self.sessions: dict[str, onnxruntime.InferenceSession] = {}

    def call(self, name: str, feeds: dict[str, Any]) -> dict[str, np.ndarray[Any, Any]]:
        """The outputs of `<name>.onnx`, by name."""
        if name not in self.sessions:
            path = str(self.folder / f"{name}.onnx")
            self.sessions[name] = onnxruntime.InferenceSession(path, self.options, ["CPUExecutionProvider"])
        session = self.sessions[name]
        names = [output.name for output in session.get_outputs()]
        return dict(zip(names, session.run(names, feeds), strict=True))

    def step(
        self, token: Int[np.ndarray, "batch"], state: State
    ) -> tuple[Float[np.ndarray, "batch vocabulary"], State]:
        results = self.call("step", {"token": token} | _inputs(state))
        return results["logits"], _next(results)

    def generate(
        self,
        prompt: Int[np.ndarray, "batch time"],
        uniform: Float[np.ndarray, "batch new_time"],
        sampling: Sampling,
        state: State | None = None,
    ) -> tuple[Int[np.ndarray, "batch new_time"], State]:
        """As many new tokens as there are uniform numbers a row."""
        feeds = {
            "prompt": prompt,
            "prompt_length": np.full(len(prompt), prompt.shape[1], np.int64),
            "max_new_tokens": np.array(uniform.shape[1], np.int64),
            "uniform": uniform,
        }
        results = self.call("generator", feeds | _settings(sampling, len(prompt)) | _inputs(state or {}))
        return results["tokens"], _next(results)

    def score(
        self, tokens: Int[np.ndarray, "batch time"], length: Int[np.ndarray, "batch"], state: State | None = None
    ) -> tuple[Float[np.ndarray, "batch scored"], State]:
        results = self.call("scorer", {"tokens": tokens, "length": length} | _inputs(state or {}))
        return results["log_prob"], _next(results)

    def fill(
        self,
        tokens: Int[np.ndarray, "batch time"],
        length: Int[np.ndarray, "batch"],
        uniform: Float[np.ndarray, "batch time"],
        sampling: Sampling,
    ) -> Int[np.ndarray, "batch time"]:
        feeds = {"tokens": tokens, "length": length, "uniform": uniform} | _settings(sampling, len(tokens))
        return self.call("filler", feeds)["filled"]


def _settings(sampling: Sampling, batch: int) -> dict[str, np.ndarray[Any, Any]]:
    return {
        "temperature": np.full(batch, sampling.temperature, np.float32),
        "top_k": np.full(batch, sampling.top_k, np.int64),
        "top_p": np.full(batch, sampling.top_p, np.float32),
    }


def _inputs(state: State) -> State:
    return {f"state.{name}": value for name, value in state.items()}


def _next(results: dict[str, np.ndarray[Any, Any]]) -> State:
    prefix = "next_state."
    return {name.removeprefix(prefix): value for name, value in results.items() if name.startswith(prefix)}
