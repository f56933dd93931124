"""Runs a bundle's graphs in one runtime, for runtimes.py, in a Python that has this runtime and numpy alone.

    python benchmarks/runtime_worker.py RUNTIME < jobs.json > results.json

A job is a graph with its calls: inputs by name, and the outputs to tell. `step.onnx` is called token after token
by docs/deploy/step.py, where a job has a prompt and uniform numbers in place of calls.
"""

from __future__ import annotations

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

Call = Callable[[dict[str, Any]], dict[str, Any]]  # inputs by name → outputs by name
DTYPES = {"int64": np.int64, "float32": np.float32, "bool": np.bool_}


def with_onnxruntime(file: str) -> Call:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(file, options, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda feeds: dict(zip(names, session.run(None, feeds), strict=True))


def with_reference(file: str) -> Call:
    """With a loop that needs no condition, and may make no trip: onnx.reference makes none, and fails to stack none."""
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.ops.op_loop import Loop as OfReference

    class Loop(OfReference):  # type: ignore[misc]
        op_domain = ""

        def _run(self, trips: Any, condition: Any, *first: Any, **rest: Any) -> Any:
            if trips > 0:
                return super()._run(trips, np.array(True) if condition is None else condition, *first, **rest)
            return (*first, *[np.empty((0, 1), np.int64)] * self.K)

    session = ReferenceEvaluator(file, new_ops=[Loop])
    return lambda feeds: dict(zip(session.output_names, session.run(None, feeds), strict=True))


def with_openvino(file: str) -> Call:
    """In fp32: the default is bf16 where the processor has it."""
    import openvino

    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1, "NUM_STREAMS": 1}
    model = openvino.Core().compile_model(file, "CPU", settings)
    names = [output.any_name for output in model.outputs]
    inputs = {value.any_name for value in model.inputs}

    def call(feeds: dict[str, Any]) -> dict[str, Any]:
        results = model({name: value for name, value in feeds.items() if name in inputs})
        return {name: results[index] for index, name in enumerate(names)}

    return call


def with_tract(file: str) -> Call:
    """Of the shapes of the first call; step.onnx as docs/deploy/step.py loads it."""
    import tract

    runnable: Any = None

    def call(feeds: dict[str, Any]) -> dict[str, Any]:
        nonlocal runnable
        if runnable is None:
            if "token" not in feeds:
                return tract.onnx().load(file).into_model().into_runnable()  # type: ignore[no-any-return]
            runnable = driver().with_tract(file, {name[6:]: feeds[name].shape[1:] for name in feeds if name != "token"})
        results: dict[str, Any] = runnable(feeds)
        return results

    return call


LOADERS: dict[str, tuple[str, Callable[[str], Call]]] = {  # runtime → its package, how it loads a file
    "onnxruntime": ("onnxruntime", with_onnxruntime),
    "openvino": ("openvino", with_openvino),
    "tract": ("tract", with_tract),
    "onnx.reference": ("onnx", with_reference),
}


def driver() -> ModuleType:
    """docs/deploy/step.py, as it stands there."""
    path = Path(__file__).resolve().parents[1] / "docs/deploy/step.py"
    spec = importlib.util.spec_from_file_location("step", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_job(load: Callable[[str], Call], job: dict[str, Any]) -> dict[str, Any]:
    """The outputs of a job's calls, or its tokens, and the processor's seconds of the quickest one after the first."""
    call = load(job["file"])
    if "uniform" in job:
        return run_steps(call, job)
    results, seconds = [], []
    for feeds in job["calls"]:
        arrays = {name: np.array(value, DTYPES[kind]).reshape(shape) for name, (value, kind, shape) in feeds.items()}
        begun = time.process_time()
        outputs = call(arrays)
        seconds.append(time.process_time() - begun)
        results.append({name: np.asarray(outputs[name]).tolist() for name in job["outputs"]})
    return {"results": results, "seconds": min(seconds[1:] or seconds)}


def run_steps(call: Call, job: dict[str, Any]) -> dict[str, Any]:
    tokens, seconds = [], []
    for uniform in job["uniform"]:
        begun = time.process_time()
        tokens.append(driver().generate(call, job["description"], job["prompt"], uniform, job["temperature"]))
        seconds.append(time.process_time() - begun)
    return {"results": tokens, "seconds": min(seconds[1:] or seconds)}


def main() -> None:
    package, load = LOADERS[sys.argv[1]]
    results = []
    for job in json.load(sys.stdin):
        try:
            results.append(run_job(load, job))
        except Exception as error:  # whatever a runtime raises is the result of this file
            results.append({"error": " ".join(f"{type(error).__name__}: {error}".split())[:200]})
    json.dump({"version": version(package), "jobs": results}, sys.stdout)


if __name__ == "__main__":
    main()
