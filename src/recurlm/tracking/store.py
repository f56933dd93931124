"""Where the runs are kept, and which of them are there; answered without importing MLflow where that can be done."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

KEY = "recurlm.key"  # the tag that holds a result's key

# The runs that nobody need log again: finished, and deleted by no one.
FINISHED_RUNS = f"""
    SELECT tags.value, runs.artifact_uri, experiments.artifact_location
    FROM runs JOIN tags USING (run_uuid) JOIN experiments USING (experiment_id)
    WHERE tags.key = '{KEY}' AND runs.status = 'FINISHED' AND runs.lifecycle_stage = 'active'
      AND experiments.name = ? AND experiments.lifecycle_stage = 'active'
"""


@dataclass(frozen=True)
class Store:
    uri: str
    own: Path | None  # the folder of the checkout's own store; None: a store that MLFLOW_TRACKING_URI names
    locks: Path

    @property
    def artifacts(self) -> str | None:
        """Where a new experiment keeps its files; None: wherever the store sees fit."""
        return (self.own / "artifacts").as_uri() if self.own else None

    @property
    def database(self) -> Path | None:
        """The file of the checkout's own store."""
        return self.own / "mlflow.db" if self.own else None

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time: two that create a store's tables at once break it, and two could log a run twice."""
        self.locks.mkdir(parents=True, exist_ok=True)
        with (self.locks / "lock").open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    def missing(self, experiment: str, keys: Mapping[str, str]) -> list[str]:
        """Names of the results of which the store has no finished run.

        Args:
            keys: name → key of its run.
        """
        path = _sqlite_path(self.uri)
        if path is None:
            from recurlm.tracking.client import finished_keys

            logged = finished_keys(self, experiment, keys)
        else:
            logged = self._finished_keys(path, experiment)
        return [name for name, key in keys.items() if key not in logged]

    def _finished_keys(self, path: Path, experiment: str) -> set[str]:
        try:
            with closing(sqlite3.connect(f"file:{quote(str(path))}?mode=ro", uri=True)) as database:
                rows = database.execute(FINISHED_RUNS, (experiment,)).fetchall()
        except sqlite3.OperationalError:  # no store yet, or one without tables
            return set()
        return {key for key, run, location in rows if self._is_whole(run, location)}

    def _is_whole(self, run: str, location: str) -> bool:
        """Whether a run's files are still there; those of the checkout's own store must lie in this checkout."""
        if self.own and location != self.artifacts:
            return False
        parts = urlsplit(run)
        return parts.scheme not in ("", "file") or Path(unquote(parts.path)).is_dir()


def find(root: Path) -> Store:
    """The store that MLFLOW_TRACKING_URI names; else SQLite in the checkout."""
    folder = _checkout(root.resolve()) / ".mlflow"
    uri = os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return Store(uri, None, folder)
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder, folder)


def _checkout(root: Path) -> Path:
    """The folder that a person works in: `dvc exp run --queue` and `--temp` run in a copy inside it, and delete it."""
    for parent in root.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return root


def _sqlite_path(uri: str) -> Path | None:
    """The file behind `sqlite:///relative` or `sqlite:////absolute`; None for any other store."""
    path = uri.removeprefix("sqlite:///")
    return Path(path) if path != uri and path and "?" not in path else None
