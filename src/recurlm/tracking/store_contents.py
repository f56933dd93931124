"""The contents of a store, compared with the plan; SQLite is read without importing MLflow, which takes seconds."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from recurlm.report.sync_plan import SyncPlan
from recurlm.tracking.store import BUNDLE, KEY, PARENT, PROMOTION_DECIDED, REPORT, DamagedStoreError, Store, read_only

# Finished runs that are not deleted.
RUNS = f"""
    SELECT runs.run_uuid, runs.artifact_uri, experiments.artifact_location, tags.key, tags.value
    FROM runs JOIN tags USING (run_uuid) JOIN experiments USING (experiment_id)
    WHERE tags.key IN ('{KEY}', '{PARENT}', '{REPORT}') AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
      AND experiments.name = ? AND experiments.lifecycle_stage = 'active'
"""
VERSIONS = f"""
    SELECT versions.name, tags.value, versions.storage_location
    FROM model_versions AS versions
    JOIN model_version_tags AS tags ON tags.name = versions.name AND tags.version = versions.version
    JOIN model_version_tags AS decided ON decided.name = versions.name AND decided.version = versions.version
    WHERE tags.key = '{BUNDLE}' AND decided.key = '{PROMOTION_DECIDED}' AND versions.current_stage != 'Deleted_Internal'
"""


@dataclass(frozen=True)
class LoggedRun:
    """A finished run."""

    run: str
    parent: str
    report: str


@dataclass(frozen=True)
class StoreContents:
    """The finished runs of an experiment, key → run, and the versions whose aliases are decided: (name, bundle)."""

    runs: Mapping[str, LoggedRun]
    versions: frozenset[tuple[str, str]]

    def parent_of(self, key: str) -> LoggedRun | None:
        """The parent of the run with this key."""
        parent = self.runs[key].parent if key in self.runs else ""
        return next((logged for logged in self.runs.values() if logged.run == parent), None)

    def satisfies(self, plan: SyncPlan) -> bool:
        """Whether everything in the plan is there."""
        versions = {(name, bundle) for name, bundles in plan.model_versions.items() for bundle in bundles}
        parents = [self.parent_of(key) for key in plan.run_keys.values()]
        if None in parents or not versions <= self.versions:
            return False
        # Runs that a DVC experiment left unchanged have another parent, which holds another report.
        shown = [self.runs.get(key) for key in plan.parent_keys.values()] if plan.dvc_experiment else parents
        return all(parent is not None and parent.report == plan.report_hash for parent in shown)


def read_store(store: Store, plan: SyncPlan) -> StoreContents:
    """The contents of the plan's experiment.

    Raises:
        InputError: the store is out of reach, or damaged.
    """
    if store.sqlite:
        return _read_sqlite(store, store.sqlite, plan.experiment)
    from recurlm.tracking.client import connected, read_contents

    # The first connection creates the tables, which two processes must not do at once.
    with store.locked(), connected(store) as client:
        return read_contents(client, plan)


def _read_sqlite(store: Store, path: Path, experiment: str) -> StoreContents:
    try:
        with closing(sqlite3.connect(read_only(path), uri=True)) as database:
            rows = database.execute(RUNS, (experiment,)).fetchall()
            versions = database.execute(VERSIONS).fetchall()
    except sqlite3.OperationalError:  # no store yet, or one without tables
        return StoreContents({}, frozenset())
    except sqlite3.DatabaseError as error:
        raise DamagedStoreError(path, error) from None
    intact = {(name, bundle) for name, bundle, uri in versions if is_own(store, uri) and _exists(uri)}
    tags = ((run, key, value) for run, uri, location, key, value in rows if _is_intact(store, uri, location))
    return StoreContents(logged_runs(tags), frozenset(intact))


def logged_runs(tags: Iterable[tuple[str, str, str]]) -> dict[str, LoggedRun]:
    """Key → run.

    Args:
        tags: (run, name, value) of finished runs.
    """
    runs: dict[str, dict[str, str]] = defaultdict(dict)
    for run, name, value in tags:
        runs[run][name] = value
    return {
        values[KEY]: LoggedRun(run, values.get(PARENT, ""), values.get(REPORT, ""))
        for run, values in runs.items()
        if KEY in values
    }


def _is_intact(store: Store, uri: str, location: str) -> bool:
    return (not store.own or location == store.artifacts) and _exists(uri)


def is_own(store: Store, uri: str) -> bool:
    """Whether an artifact lies in this store's folder: a copied checkout names those of the original."""
    return store.artifacts is None or (uri or "").startswith(f"{store.artifacts}/")


def _exists(uri: str) -> bool:
    parts = urlsplit(uri or "")
    return parts.scheme not in ("", "file") or Path(unquote(parts.path)).is_dir()
