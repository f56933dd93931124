"""MLflow client calls: connect to a store, open an experiment, search and delete runs."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import mlflow
from mlflow import MlflowClient
from mlflow.entities import Experiment, Run, ViewType
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from requests.exceptions import RequestException
from sqlalchemy.exc import SQLAlchemyError

from recurlm.errors import InputError
from recurlm.report.sync_plan import SyncPlan
from recurlm.tracking.store import BUNDLE, KEY, PROMOTION_DECIDED, Store
from recurlm.tracking.store_contents import StoreContents, logged_runs


@contextmanager
def connected(store: Store) -> Iterator[MlflowClient]:
    """A client of the store.

    Raises:
        InputError: the store is out of reach, refuses, is damaged, or went away in the middle.
    """
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield _client(store)
    except (MlflowException, SQLAlchemyError, RequestException) as error:
        store.check()
        raise InputError(
            f"MLflow at {without_password(store.uri)}: {_problem(error)}; the results in data/ are complete: "
            "bring the store up, or unset MLFLOW_TRACKING_URI, and run it again"
        ) from None


def _client(store: Store) -> MlflowClient:
    try:
        if store.database and not store.database.exists():
            _create(store.database)
        mlflow.set_tracking_uri(store.uri)
        mlflow.set_registry_uri(store.uri)
        return MlflowClient(store.uri, store.uri)
    except (OSError, ImportError) as error:  # no such folder for SQLite, or no driver for another database
        raise MlflowException(str(error)) from None


def _create(database: Path) -> None:
    """Create the checkout's own store atomically: MLflow cannot open one with half of its tables."""
    partial = database.with_name(f"{database.name}.partial")
    partial.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments()
    partial.rename(database)


def _problem(error: Exception) -> str:
    """MLflow's error in one line; its own messages have many lines, and may contain a password."""
    if isinstance(error, RequestException) or isinstance(error.__context__, RequestException):
        return "out of reach"
    return str(error).splitlines()[0].partition(". ")[0][:300]


def without_password(uri: str) -> str:
    host = urlsplit(uri).netloc
    return uri.replace(host, host.rpartition("@")[2]) if host else uri


def read_contents(client: MlflowClient, plan: SyncPlan) -> StoreContents:
    """The contents of an experiment, through the MLflow client."""
    experiment = client.get_experiment_by_name(plan.experiment)
    runs = []
    if experiment is not None and experiment.lifecycle_stage == "active":
        ids = [experiment.experiment_id]
        runs = all_pages(lambda token: client.search_runs(ids, "status = 'FINISHED'", page_token=token))
    tags = ((run.info.run_id, name, value) for run in runs for name, value in run.data.tags.items())
    versions = (version for name in plan.model_versions for version in versions_of(client, name))
    decided = {
        (each.name, each.tags[BUNDLE]) for each in versions if PROMOTION_DECIDED in each.tags and BUNDLE in each.tags
    }
    return StoreContents(logged_runs(tags), frozenset(decided))


def all_pages(search: Callable[[str | None], Any]) -> list[Any]:
    """All results of a paginated search."""
    results, token = [], None
    while True:
        page = search(token)
        results += page
        token = page.token
        if not token:
            return results


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a registered model, the oldest first; none where there is no such model."""
    versions = all_pages(lambda token: client.search_model_versions(f"name = '{name}'", page_token=token))
    return sorted(versions, key=lambda version: int(version.version))


def runs_with(client: MlflowClient, experiment_id: str, key: str) -> list[Run]:
    """The runs of one result that are not deleted, in any status."""
    return list(client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", ViewType.ACTIVE_ONLY))


def open_experiment(client: MlflowClient, store: Store, name: str) -> str:
    """The id of the experiment, which is created where there is none, and restored where it was deleted."""
    experiment: Experiment | None = client.get_experiment_by_name(name)
    if experiment and store.artifacts and experiment.artifact_location != store.artifacts:
        # The checkout was moved or copied, and this experiment keeps its artifacts in the original checkout.
        client.rename_experiment(experiment.experiment_id, f"{name}, from {experiment.artifact_location}")
        experiment = None
    if experiment is None:
        # Without a kind the UI asks for one; the other kind shows traces in place of runs.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(name, store.artifacts, kind))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)  # another machine was faster
            if experiment is None:
                raise
    if experiment.lifecycle_stage != "active":
        client.restore_experiment(experiment.experiment_id)
    return str(experiment.experiment_id)


def discard(client: MlflowClient, run: Run) -> None:
    """Delete an incomplete run, and its logged models."""
    models = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    for model in models:
        client.delete_logged_model(model.model_id)
    client.delete_run(run.info.run_id)
