"""Log results as MLflow runs, each once and completely: one run per variant, and one per pipeline."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import DatasetInput, Metric, Param
from mlflow.tracking.context.registry import resolve_tags

from recurlm import config
from recurlm.report.results import Result, Results, load_results
from recurlm.report.sync_plan import SyncPlan, bundle_keys
from recurlm.tracking import describe, models, registry, view
from recurlm.tracking.client import connected, discard, open_experiment, read_contents, runs_with
from recurlm.tracking.datasets import datasets
from recurlm.tracking.parent_runs import ParentRuns
from recurlm.tracking.pyfunc_model import verified_description
from recurlm.tracking.store import LOGGED, PARENT, Store
from recurlm.tracking.store_contents import StoreContents, read_store
from recurlm.tracking.training_times import TrainingTimes, training_times

ABANDONED = 15 * 60 * 1000  # ms after which an unfinished run in a shared store counts as that of a killed process


def log(root: Path, store: Store, plan: SyncPlan) -> list[str]:
    """Log what the store lacks of the plan; see `recurlm.tracking.sync.sync`."""
    results = load_results(root, config.load(root / "params.yaml"))
    messages = []
    with store.locked(), connected(store) as client:
        experiment = open_experiment(client, store, plan.experiment)
        contents = read_store(store, plan) if store.sqlite else read_contents(client, plan)
        parents = ParentRuns(client, experiment, root, results, plan, contents)
        runs: dict[str, str] = {}
        for result in results.variants:
            if result.name not in plan.run_keys:
                continue
            _discard_incomplete(client, store, experiment, plan.run_keys[result.name], contents)
            if result.key in contents.runs:
                runs[result.name] = contents.runs[result.key].run
                parents.attach(result, runs[result.name])
            else:
                for bundle in result.bundles:  # before anything is logged
                    verified_description(bundle.folder)
                run = _log_run(client, experiment, root, results, result, parents.of(result))
                runs[result.name] = _deduplicate(client, experiment, result.key, run)
                messages.append(f"logged {result.name}")
        parents.finish(runs)
        view.lay_out(client, experiment)
        messages += registry.register(client, store, experiment, results, plan, runs)
    return messages


def _discard_incomplete(client: MlflowClient, store: Store, experiment: str, key: str, contents: StoreContents) -> None:
    """Delete the result's runs that a killed process left unfinished, that lost their artifacts or were restored."""
    for run in runs_with(client, experiment, key):
        age = time.time() * 1000 - float(run.data.tags.get(LOGGED, 0))
        finished = run.info.status == "FINISHED"
        logged = key in contents.runs and contents.runs[key].run == run.info.run_id
        if not logged and (finished or store.own or age > ABANDONED):
            discard(client, run)


def _deduplicate(client: MlflowClient, experiment: str, key: str, own_run: str) -> str:
    """Where another machine logged the same result meanwhile, keep only the run that began first.

    Returns:
        The id of the remaining run.
    """
    finished = [run for run in runs_with(client, experiment, key) if run.info.status == "FINISHED"]
    finished.sort(key=lambda run: (float(run.data.tags.get(LOGGED, 0)), run.info.run_id))
    for run in finished[1:]:
        discard(client, run)
    return str(finished[0].info.run_id) if finished else own_run


def _log_run(client: MlflowClient, experiment: str, root: Path, results: Results, result: Result, parent: str) -> str:
    times = training_times(root, result)
    tags = describe.tags(root, results, result) | {
        LOGGED: str(int(time.time() * 1000)),
        PARENT: parent,
        "mlflow.source.name": "pipelines/report.py",
        "mlflow.note.content": describe.note(result),
    }
    started = client.create_run(experiment, times.start, resolve_tags(tags), run_name=result.name)
    run = str(started.info.run_id)
    # If the process is killed from here on, the run stays unfinished, and the next sync replaces it.
    for params in _batches([Param(*pair) for pair in describe.params(result).items()], 100):
        client.log_batch(run, params=params)
    texts = datasets(results)
    client.log_inputs(run, list(texts.values()))
    for folder, file in describe.files(root, result):
        client.log_artifact(run, str(file), folder)
    logged_models = [
        models.model_for(client, experiment, run, results, result, *bundle)
        for bundle in zip(result.bundles, bundle_keys(result), strict=True)
    ]
    for metrics in _batches(_metrics(result, times, logged_models[0], texts), 1000):
        client.log_batch(run, metrics=metrics)
    client.set_terminated(run, "FINISHED", times.end)
    return run


def _batches(items: Sequence[Any], size: int) -> Iterable[Sequence[Any]]:
    """Slices of at most `size` items, MLflow's limit per request."""
    return (items[start : start + size] for start in range(0, len(items), size))


def _metrics(result: Result, times: TrainingTimes, model: str, texts: dict[str, DatasetInput]) -> list[Metric]:
    metrics = [Metric(name, value, times.of_step(step), step) for name, step, value in describe.series(result)]
    metrics += [
        Metric(name, value, times.after(seconds), int(seconds)) for name, seconds, value in times.system_metrics
    ]
    for name, value in describe.final_metrics(result).items():
        data = texts.get(name.partition("_")[0])
        named = (data.dataset.name, data.dataset.digest) if data else (None, None)
        metrics.append(Metric(name, value, times.end, 0, model, *named))  # a single value at step 0 is drawn as a bar
    return metrics
