"""Log results as runs, each once, and whole: a run a variant, under a run for the pipeline that made them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param
from mlflow.tracking.context.registry import resolve_tags

from recurlm import config
from recurlm.report.results import Result, Results, gather
from recurlm.report.sync_plan import SyncPlan, bundle_keys
from recurlm.tracking import describe, models, registry, view
from recurlm.tracking.client import connected, discard, open_experiment, read, runs_with
from recurlm.tracking.training_times import TrainingTimes, clock
from recurlm.tracking.datasets import datasets
from recurlm.tracking.pyfunc_model import proven
from recurlm.tracking.parent_runs import ParentRuns
from recurlm.tracking.store_contents import StoreContents, present
from recurlm.tracking.store import LOGGED, PARENT, Store

ABANDONED = 15 * 60 * 1000  # ms after which an unfinished run in a shared store is taken for a killed process's


def log(root: Path, store: Store, wanted: SyncPlan) -> list[str]:
    """Log what the store lacks of `wanted`; see `recurlm.tracking.sync.sync`."""
    results = gather(root, config.load(root / "params.yaml"))
    told = []
    with store.locked(), connected(store) as client:
        experiment = open_experiment(client, store, wanted.experiment)
        found = present(store, wanted) if store.sqlite else read(client, wanted)
        parents = ParentRuns(client, experiment, root, results, wanted, found)
        runs: dict[str, str] = {}
        for result in results.variants:
            if result.name not in wanted.runs:
                continue
            _clear(client, store, experiment, wanted.runs[result.name], found)
            if result.key in found.runs:
                runs[result.name] = found.runs[result.key].run
                parents.attach(result, runs[result.name])
            else:
                for bundle in result.bundles:  # before anything is written
                    proven(bundle.folder)
                run = _log_run(client, experiment, root, results, result, parents.of(result))
                runs[result.name] = _settle(client, experiment, result.key, run)
                told.append(f"logged {result.name}")
        parents.finish(runs)
        view.lay_out(client, experiment)
        told += registry.register(client, store, experiment, results, wanted, runs)
    return told


def _clear(client: MlflowClient, store: Store, experiment: str, key: str, found: StoreContents) -> None:
    """Delete what a killed process left of a result, and runs that lost their files or came back out of the bin."""
    for run in runs_with(client, experiment, key):
        age = time.time() * 1000 - float(run.data.tags.get(LOGGED, 0))
        finished = run.info.status == "FINISHED"
        kept = key in found.runs and found.runs[key].run == run.info.run_id
        if not kept and (finished or store.own or age > ABANDONED):
            discard(client, run)


def _settle(client: MlflowClient, experiment: str, key: str, mine: str) -> str:
    """Where another machine logged the same result meanwhile, keep that which was begun first.

    Returns:
        The id of the run that is left.
    """
    finished = [run for run in runs_with(client, experiment, key) if run.info.status == "FINISHED"]
    finished.sort(key=lambda run: (float(run.data.tags.get(LOGGED, 0)), run.info.run_id))
    for run in finished[1:]:
        discard(client, run)
    return str(finished[0].info.run_id) if finished else mine


def _log_run(client: MlflowClient, experiment: str, root: Path, results: Results, result: Result, parent: str) -> str:
    times = clock(root, result)
    tags = describe.tags(root, results, result) | {
        LOGGED: str(int(time.time() * 1000)),
        PARENT: parent,
        "mlflow.source.name": "pipelines/report.py",
        "mlflow.note.content": describe.note(result),
    }
    started = client.create_run(experiment, times.start, resolve_tags(tags), run_name=result.name)
    run = str(started.info.run_id)
    # A run that is killed in here stays unfinished, and the next sync logs it anew.
    for params in _batches([Param(*pair) for pair in describe.params(result).items()], 100):
        client.log_batch(run, params=params)
    texts = datasets(results)
    client.log_inputs(run, list(texts.values()))
    for folder, file in describe.files(root, result):
        client.log_artifact(run, str(file), folder)
    made = [
        models.model_for(client, experiment, run, results, result, *bundle)
        for bundle in zip(result.bundles, bundle_keys(result), strict=True)
    ]
    for metrics in _batches(_metrics(result, times, made[0], texts), 1000):
        client.log_batch(run, metrics=metrics)
    client.set_terminated(run, "FINISHED", times.end)
    return run


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """MLflow takes so many at once and no more."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _metrics(result: Result, times: TrainingTimes, model: str, texts: dict[str, DatasetInput]) -> list[Metric]:
    metrics = [Metric(name, value, times.at(step), step) for name, step, value in describe.series(result)]
    metrics += [Metric(name, value, times.after(seconds), int(seconds)) for name, seconds, value in times.system]
    for name, value in describe.scores(result).items():
        data = texts.get(name.partition("_")[0])
        named = (data.dataset.name, data.dataset.digest) if data else (None, None)
        metrics.append(Metric(name, value, times.end, 0, model, *named))  # one value at step 0: the UI draws bars
    return metrics
