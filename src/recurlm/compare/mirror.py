"""Trials in MLflow: a run a variant, and a child run for each of its trials."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from mlflow.entities import Param
from mlflow.tracking.context.registry import resolve_tags

from recurlm.compare.settings import Compare
from recurlm.storage import read_json
from recurlm.tracking.store import KEY, find, leased, open_experiment

CHILD_OF = "mlflow.parentRunId"  # MLflow's own tag


def log_trials(root: Path, compare: Compare, experiment: str, results: dict[str, Any]) -> list[str]:
    """Log what the store lacks of the comparison; one line a variant that is new.

    Raises:
        InputError: the store is out of reach, or refuses.
    """
    store, lines = find(root), []
    with store.locked(), store.connected() as client, leased(client, store, experiment):
        place = open_experiment(client, store, experiment)
        for name in compare.variants:
            tuned = read_json(root / compare.folder / f"tuned/{name}.json")
            if said := _log(client, place, tuned, results["variants"][name]):
                lines.append(f"logged {said} in MLflow's experiment {experiment}")
    return lines


def _log(client: MlflowClient, experiment: str, tuned: dict[str, Any], part: dict[str, Any]) -> str:
    """Log one variant, and return what was logged; what a killed process left unfinished is replaced.

    Scores of the same trials, as from more seeds, go into the same run, whose history keeps the earlier ones.
    """
    key = f"{tuned['key']}-{len(tuned['trials'])}"
    earlier = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'")
    for run in earlier:
        if run.info.status == "FINISHED" and CHILD_OF not in run.data.tags:
            if run.data.metrics.get("test_nats_per_token") == part["nats_per_token"]:
                return ""
            _log_scores(client, run.info.run_id, part)
            return f"new scores of {tuned['variant']}"
    for run in earlier:
        client.delete_run(run.info.run_id)
    parent = _start(client, experiment, tuned["variant"], {KEY: key}, tuned["best"])
    for number, trial in enumerate(tuned["trials"]):
        name = f"{tuned['variant']}, trial {number + 1}"
        child = _start(client, experiment, name, {KEY: key, CHILD_OF: parent}, trial["settings"])
        loss = trial["validation_nats_per_token"]
        if loss is not None:
            client.log_metric(child, "validation_nats_per_token", loss)
        client.set_terminated(child, "FINISHED" if loss is not None else "FAILED")
    _log_scores(client, parent, part)
    client.set_terminated(parent, "FINISHED")
    return f"{tuned['variant']} and {len(tuned['trials'])} trials"


def _log_scores(client: MlflowClient, run: str, part: dict[str, Any]) -> None:
    for metric in ("bits_per_byte", "perplexity_per_token", "nats_per_token"):  # the last says that all are there
        client.log_metric(run, f"test_{metric}", part[metric])


def _start(client: MlflowClient, experiment: str, name: str, tags: dict[str, str], settings: dict[str, float]) -> str:
    run = client.create_run(experiment, tags=resolve_tags(tags), run_name=name)
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in settings.items()])
    return str(run.info.run_id)
