"""The tracking store: the checkout's own SQLite database, or the one at MLFLOW_TRACKING_URI."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEY = "recurlm.key"  # tag of a run: the key of its result
REPORT = "recurlm.report"  # tag of a pipeline's run: the hash of the report in it
LOGGED = "recurlm.logged"  # tag of a run: when logging began, in ms
PARENT = "mlflow.parentRunId"
BUNDLE = "recurlm.bundle"  # tag of a model and of a registered version: the key of its bundle
PROMOTION_DECIDED = "recurlm.promotion_decided"  # tag of a version whose aliases are decided


@dataclass(frozen=True)
class Store:
    uri: str
    own: Path | None  # folder of the checkout's own store; None for any other store

    @property
    def artifacts(self) -> str | None:
        """Where a new experiment keeps its artifacts; None: the store's default."""
        return (self.own / "artifacts").as_uri() if self.own else None

    @property
    def database(self) -> Path | None:
        """The file of the checkout's own store."""
        return self.own / "mlflow.db" if self.own else None

    @property
    def lock(self) -> Path:
        """The lock file of the store; clones that share a store on one machine share its lock."""
        if self.own:
            return self.own / "lock"
        name = hashlib.sha256(self.uri.encode()).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"recurlm-{os.getuid()}-{name}.lock"

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock: two processes that create tables at once break a store, and could log a run twice."""
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
    """The checkout itself, where `root` is the temporary copy inside it of `dvc exp run --queue` or `--temp`."""
    for parent in root.parents:
        if parent.parts[-3:] == (".dvc", "tmp", "exps"):
            return parent.parents[2]
    return root
