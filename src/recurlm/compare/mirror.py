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
            if _log(client, place, tuned, results["variants"][name]):
                lines.append(f"logged {name} and {len(tuned['trials'])} trials in MLflow's experiment {experiment}")
    return lines


def _log(client: MlflowClient, experiment: str, tuned: dict[str, Any], part: dict[str, Any]) -> bool:
    """Log one variant; what a killed process left unfinished is replaced."""
    key = f"{tuned['key']}-{len(tuned['trials'])}-{part['nats_per_token']!r}"
    earlier = client.search_runs([experiment], f"tags.`{KEY}` = '{key}'")
    if any(run.info.status == "FINISHED" and CHILD_OF not in run.data.tags for run in earlier):
        return False
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
    for metric in ("nats_per_token", "perplexity_per_token", "bits_per_byte"):
        client.log_metric(parent, f"test_{metric}", part[metric])
    client.set_terminated(parent, "FINISHED")
    return True


def _start(client: MlflowClient, experiment: str, name: str, tags: dict[str, str], settings: dict[str, float]) -> str:
    run = client.create_run(experiment, tags=resolve_tags(tags), run_name=name)
    client.log_batch(run.info.run_id, params=[Param(key, str(value)) for key, value in settings.items()])
    return str(run.info.run_id)
