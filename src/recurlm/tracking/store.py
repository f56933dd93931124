"""Where the runs are kept: the checkout's own SQLite, or what MLFLOW_TRACKING_URI names."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY = "recurlm.key"  # the tag of a run that holds its result's key
REPORT = "recurlm.report"  # the tag of a pipeline's run that holds the hash of the report in it
LOGGED = "recurlm.logged"  # the tag of a run that says when somebody began to log it, in ms
PARENT = "mlflow.parentRunId"
BUNDLE = "recurlm.bundle"  # the tag of a model and of a registered version that holds its bundle's key
PROMOTION_DECIDED = "recurlm.promotion_decided"  # the tag of a version of which it was decided whether it takes an alias


@dataclass(frozen=True)
class Store:
    uri: str
    own: Path | None  # the folder of the checkout's own store; None: a store that somebody named

    @property
    def artifacts(self) -> str | None:
        """Where a new experiment keeps its files; None: wherever the store sees fit."""
        return (self.own / "artifacts").as_uri() if self.own else None

    @property
    def database(self) -> Path | None:
        """The file of the checkout's own store."""
        return self.own / "mlflow.db" if self.own else None

    @property
    def lock(self) -> Path:
        """One for each store: clones of a project on one machine may share a store, and then they share its lock."""
        if self.own:
            return self.own / "lock"
        name = hashlib.sha256(self.uri.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"recurlm-{os.getuid()}-{name}.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One process at a time: two that create a store's tables at once break it, and two could log a run twice."""
        self.lock.parent.mkdir(parents=True, exist_ok=True)
        with self.lock.open("w") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @property
    def sqlite(self) -> Path | None:
        """The file behind `sqlite:///relative` or `sqlite:////absolute`; None for any other store."""
        path = self.uri.removeprefix("sqlite:///")
        return Path(path) if path != self.uri and path and "?" not in path else None


def find(root: Path, uri: str | None = None) -> Store:
    """The store at `uri`, or that MLFLOW_TRACKING_URI names; else SQLite in the checkout."""
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI")
    if uri:
        return Store(uri, None)
    folder = _checkout(root.resolve()) / ".mlflow"
    return Store(f"sqlite:///{folder / 'mlflow.db'}", folder)


def _checkout(root: Path) -> Path:
    """The folder that a person works in: `dvc exp run --queue` and `--temp` run in a copy inside it, and delete it."""
    for parent in root.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return root
