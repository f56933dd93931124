"""The door to MLflow: a store reached or refused, an experiment opened, runs found and thrown away."""

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
from recurlm.tracking.store_contents import StoreContents, logged
from recurlm.tracking.store import BUNDLE, PROMOTION_DECIDED, KEY, Store


@contextmanager
def connected(store: Store) -> Iterator[MlflowClient]:
    """A client of the store.

    Raises:
        InputError: the store is out of reach, or refuses.
    """
    for name in ("alembic", "mlflow"):
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield _client(store)
    except (MlflowException, SQLAlchemyError) as error:
        raise InputError(
            f"MLflow at {without_password(store.uri)}: {_problem(error)}; the results in data/ are whole: "
            "bring the store up, or unset MLFLOW_TRACKING_URI, and run it again"
        ) from None


def _client(store: Store) -> MlflowClient:
    try:
        if store.database and not store.database.exists():
            _create(store.database)
        mlflow.set_tracking_uri(store.uri)
        mlflow.set_registry_uri(store.uri)
        return MlflowClient(store.uri, store.uri)
    except (OSError, ImportError) as error:  # no such place for SQLite, or no driver for another database
        raise MlflowException(str(error)) from None


def _create(database: Path) -> None:
    """Make the checkout's own store whole or not at all: MLflow can't go on with half of its tables."""
    partial = database.with_name(f"{database.name}.partial")
    partial.unlink(missing_ok=True)
    MlflowClient(tracking_uri=f"sqlite:///{partial}").search_experiments()
    partial.rename(database)


def _problem(error: Exception) -> str:
    """MLflow's reason in a few words; its own texts run to many lines, and may hold a password."""
    if isinstance(error.__context__, RequestException):
        return "out of reach"
    return str(error).splitlines()[0].partition(". ")[0][:300]


def without_password(uri: str) -> str:
    place = urlsplit(uri).netloc
    return uri.replace(place, place.rpartition("@")[2]) if place else uri


def read(client: MlflowClient, wanted: SyncPlan) -> StoreContents:
    """What the store holds of an experiment, asked through MLflow."""
    found = client.get_experiment_by_name(wanted.experiment)
    runs = []
    if found is not None and found.lifecycle_stage == "active":
        place = [found.experiment_id]
        runs = pages(lambda token: client.search_runs(place, "status = 'FINISHED'", page_token=token))
    tags = ((run.info.run_id, name, value) for run in runs for name, value in run.data.tags.items())
    versions = (version for name in wanted.versions for version in versions_of(client, name))
    judged = {(each.name, each.tags[BUNDLE]) for each in versions if PROMOTION_DECIDED in each.tags and BUNDLE in each.tags}
    return StoreContents(logged(tags), frozenset(judged))


def pages(search: Callable[[str | None], Any]) -> list[Any]:
    """All results of a search that answers page by page."""
    found, token = [], None
    while True:
        page = search(token)
        found += page
        token = page.token
        if not token:
            return found


def versions_of(client: MlflowClient, name: str) -> list[ModelVersion]:
    """All versions of a registered model, the oldest first; none where there is no such model."""
    found = pages(lambda token: client.search_model_versions(f"name = '{name}'", page_token=token))
    return sorted(found, key=lambda version: int(version.version))


def runs_with(client: MlflowClient, experiment_id: str, key: str) -> list[Run]:
    """The runs of one result, whatever became of them, unless somebody deleted them."""
    return list(client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", ViewType.ACTIVE_ONLY))


def open_experiment(client: MlflowClient, store: Store, name: str) -> str:
    """The id of the experiment: made where there is none, taken back from the bin where somebody deleted it."""
    found: Experiment | None = client.get_experiment_by_name(name)
    if found and store.artifacts and found.artifact_location != store.artifacts:
        # The checkout was moved or copied, and this experiment writes its files into the place that it came from.
        client.rename_experiment(found.experiment_id, f"{name}, from {found.artifact_location}")
        found = None
    if found is None:
        # The kind spares the reader of the UI a question; the other kind shows traces in place of runs.
        kind = {"mlflow.experimentKind": "custom_model_development"}
        try:
            return str(client.create_experiment(name, store.artifacts, kind))
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            found = client.get_experiment_by_name(name)  # another machine was faster
            if found is None:
                raise
    if found.lifecycle_stage != "active":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def discard(client: MlflowClient, run: Run) -> None:
    """Delete a run that is not whole, and the models that it left."""
    found = client.search_logged_models([run.info.experiment_id], f"source_run_id = '{run.info.run_id}'")
    for model in found:
        client.delete_logged_model(model.model_id)
    client.delete_run(run.info.run_id)
