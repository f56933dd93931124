"""What a store holds, and what it lacks; read from SQLite without importing MLflow, which would take seconds."""

from __future__ import annotations

import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from recurlm.report.sync_plan import SyncPlan
from recurlm.tracking.store import BUNDLE, PROMOTION_DECIDED, KEY, PARENT, REPORT, Store

# The runs that nobody need log again: finished, and deleted by no one.
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
    JOIN model_version_tags AS judged ON judged.name = versions.name AND judged.version = versions.version
    WHERE tags.key = '{BUNDLE}' AND judged.key = '{PROMOTION_DECIDED}' AND versions.current_stage != 'Deleted_Internal'
"""


@dataclass(frozen=True)
class LoggedRun:
    """A finished run."""

    run: str
    parent: str
    report: str


@dataclass(frozen=True)
class StoreContents:
    """The finished runs of an experiment, key → run, and the versions with an alias decided on: (name, bundle)."""

    runs: Mapping[str, LoggedRun]
    versions: frozenset[tuple[str, str]]

    def missing_runs(self, wanted: SyncPlan) -> list[str]:
        """The variants whose result no finished run has."""
        return [name for name, key in wanted.runs.items() if key not in self.runs]

    def parent_of(self, key: str) -> LoggedRun | None:
        """The pipeline's run that a run lies under."""
        parent = self.runs[key].parent if key in self.runs else ""
        return next((logged for logged in self.runs.values() if logged.run == parent), None)

    def holds(self, wanted: SyncPlan) -> bool:
        """Whether there is nothing to do."""
        versions = {(name, bundle) for name, bundles in wanted.versions.items() for bundle in bundles}
        above = [self.parent_of(key) for key in wanted.runs.values()]
        if None in above or not versions <= self.versions:
            return False
        # The runs that an experiment of DVC took over as they were lie under another, which has a report of its own.
        shown = [self.runs.get(key) for key in wanted.parents.values()] if wanted.dvc_experiment else above
        return all(parent is not None and parent.report == wanted.report for parent in shown)


def present(store: Store, wanted: SyncPlan) -> StoreContents:
    """What the store holds of an experiment.

    Raises:
        InputError: the store is out of reach.
    """
    if store.sqlite:
        return _read_sqlite(store, store.sqlite, wanted.experiment)
    from recurlm.tracking.client import connected, read

    # Whoever comes first to a database makes its tables, which two must not do at once.
    with store.locked(), connected(store) as client:
        return read(client, wanted)


def _read_sqlite(store: Store, path: Path, experiment: str) -> StoreContents:
    try:
        with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
            rows = database.execute(RUNS, (experiment,)).fetchall()
            versions = database.execute(VERSIONS).fetchall()
    except sqlite3.OperationalError:  # no store yet, or one without tables
        return StoreContents({}, frozenset())
    whole = {(name, bundle) for name, bundle, place in versions if is_own(store, place) and _is_there(place)}
    found = ((run, key, value) for run, place, home, key, value in rows if _is_whole(store, place, home))
    return StoreContents(logged(found), frozenset(whole))


def logged(tags: Iterable[tuple[str, str, str]]) -> dict[str, LoggedRun]:
    """Key → run.

    Args:
        tags: (run, name, value) of runs that are finished.
    """
    runs: dict[str, dict[str, str]] = defaultdict(dict)
    for run, name, value in tags:
        runs[run][name] = value
    return {
        found[KEY]: LoggedRun(run, found.get(PARENT, ""), found.get(REPORT, ""))
        for run, found in runs.items()
        if KEY in found
    }


def _is_whole(store: Store, run: str, location: str) -> bool:
    return (not store.own or location == store.artifacts) and _is_there(run)


def is_own(store: Store, place: str) -> bool:
    """Whether files lie where this store keeps them: those of a checkout that was copied lie in the other one."""
    return store.artifacts is None or (place or "").startswith(f"{store.artifacts}/")


def _is_there(place: str) -> bool:
    parts = urlsplit(place or "")
    return parts.scheme not in ("", "file") or Path(unquote(parts.path)).is_dir()
