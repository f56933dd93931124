"""Log results as runs: each once, and whole."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import onnx
from mlflow import MlflowClient
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param
from mlflow.models import ModelSignature
from mlflow.tracking.context.registry import resolve_tags
from mlflow.types import Schema, TensorSpec

from recurlm import config
from recurlm.report import fingerprint
from recurlm.report.results import Result, Results, gather
from recurlm.storage import check_sha256
from recurlm.tracking import describe
from recurlm.tracking.client import connected, discard, open_experiment, runs_with
from recurlm.tracking.store import Store

SPLITS = {"train": "training", "validation": "validation", "test": "testing"}  # name here → MLflow's word
DIGEST = 32  # hex digits of a sha256 that fit MLflow's column


def log(root: Path, store: Store, keys: dict[str, str]) -> list[str]:
    """Log each of these results, unless another process did so in the meantime.

    Args:
        keys: variant → key of its run.

    Returns:
        The variants that were logged.

    Raises:
        InputError: the store is out of reach, or refuses; or a bundle is corrupted.
    """
    results = gather(root, config.load(root / "params.yaml"))
    with store.locked(), connected(store) as client:
        name = results.params.report.experiment
        experiment = open_experiment(client, store, name)
        missing = store.missing(name, keys)
        for result in results.variants:
            if result.name in keys:
                _keep_one(client, experiment, result.key, keep=result.name not in missing)
            if result.name in missing:
                _log_run(client, experiment, root, results, result)
        return missing


def _keep_one(client: MlflowClient, experiment: str, key: str, keep: bool) -> None:
    """Delete what a killed process left of a result, and what an experiment out of the bin brought back twice."""
    for run in runs_with(client, experiment, key):
        if keep and run.info.status == "FINISHED":
            keep = False
        else:
            discard(client, run)


def _log_run(client: MlflowClient, experiment: str, root: Path, results: Results, result: Result) -> None:
    for file, noted in (result.bundle or {})["files"].items():
        check_sha256(result.bundle_folder / file, noted["sha256"])
    tags = resolve_tags({**describe.tags(root, results, result), "mlflow.source.name": "pipelines/report.py"})
    run = client.create_run(experiment, tags=tags, run_name=result.name).info.run_id
    # A run that is killed in here stays unfinished, and the next report logs it anew.
    with mlflow.start_run(run_id=run):
        for params in _batches([Param(*pair) for pair in describe.params(result).items()], 100):
            client.log_batch(run, params=params)
        datasets = _datasets(results)
        client.log_inputs(run, list(datasets.values()))
        client.log_artifacts(run, str(result.bundle_folder), "bundle")
        sample = root / fingerprint.FOLDER / "samples" / f"{result.name}.txt"
        if sample.is_file():
            client.log_artifact(run, str(sample), "sample")
        model = _log_model(result)
        for metrics in _batches(_metrics(result, model, datasets), 1000):
            client.log_batch(run, metrics=metrics)


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """MLflow takes so many at once and no more."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _metrics(result: Result, model: str, datasets: dict[str, DatasetInput]) -> list[Metric]:
    now = int(time.time() * 1000)
    metrics = [Metric(name, value, now, step) for name, step, value in describe.series(result)]
    for name, value in describe.scores(result).items():
        data = datasets.get(name.partition("_")[0])
        named = (data.dataset.name, data.dataset.digest) if data else (None, None)
        metrics.append(Metric(name, value, now, 0, model, *named))  # one value at step 0: the UI draws bars
    return metrics


def _datasets(results: Results) -> dict[str, DatasetInput]:
    """Split → the text behind it, known by its sha256."""
    corpus = results.corpus or {}
    source = {key: corpus.get(key) for key in ("source", "name", "revision", "licence")}
    return {
        split: DatasetInput(
            Dataset(
                name=f"{corpus['name']}, {split}",
                digest=facts["sha256"][:DIGEST],
                source_type=str(corpus.get("source")),
                source=json.dumps(source),
                profile=json.dumps({key: value for key, value in facts.items() if key != "names"}),
            ),
            [InputTag("mlflow.data.context", SPLITS[split])],
        )
        for split, facts in corpus.get("splits", {}).items()
    }


def _log_model(result: Result) -> str:
    """Log the graph that generates, or fills in, as an MLflow model that `mlflow.pyfunc` can load."""
    graph = onnx.load(result.bundle_folder / ("generator.onnx" if result.causal else "filler.onnx"))
    model = mlflow.onnx.log_model(
        graph,
        name=result.name,
        signature=signature(graph.graph),
        onnx_execution_providers=["CPUExecutionProvider"],
        pip_requirements=["onnx", "onnxruntime", "numpy"],
        save_as_external_data=False,
    )
    return str(model.model_id)


def signature(graph: onnx.GraphProto) -> ModelSignature:
    """The graph's inputs that have no default, and its outputs, with -1 for each length that the caller chooses."""
    defaults = {weight.name for weight in graph.initializer}
    needed = [value for value in graph.input if value.name not in defaults]
    return ModelSignature(inputs=_schema(needed), outputs=_schema(graph.output))


def _schema(values: Iterable[onnx.ValueInfoProto]) -> Schema:
    return Schema([TensorSpec(_dtype(value), _shape(value), value.name) for value in values])


def _dtype(value: onnx.ValueInfoProto) -> np.dtype[Any]:
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type))


def _shape(value: onnx.ValueInfoProto) -> tuple[int, ...]:
    return tuple(size.dim_value or -1 for size in value.type.tensor_type.shape.dim)
