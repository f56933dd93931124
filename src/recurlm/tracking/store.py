"""The tracking store: the checkout's own SQLite database, or the one at MLFLOW_TRACKING_URI."""

from __future__ import annotations

import fcntl
import hashlib
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from recurlm.errors import InputError

KEY = "recurlm.key"  # tag of a run: the key of its result
REPORT = "recurlm.report"  # tag of a pipeline's run: the hash of the report in it
LOGGED = "recurlm.logged"  # tag of a run: when logging began, in ms
# Tag of a run: that of its pipeline. Not MLflow's own, which would hide the variants under a collapsed row.
PARENT = "recurlm.pipeline_run"
BUNDLE = "recurlm.bundle"  # tag of a model and of a registered version: the key of its bundle
PROMOTION_DECIDED = "recurlm.promotion_decided"  # tag of a version whose aliases are decided


class DamagedStoreError(InputError):
    """The SQLite file of a store is no database any more; no result is in it alone."""

    def __init__(self, path: Path, problem: object) -> None:
        super().__init__(
            f"{path}: a damaged database ({problem}); the results in data/ are complete: "
            f"move it away (mv '{path}' '{path}.damaged'), then recurlm sync fills a new one"
        )


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

    def check(self) -> None:
        """Read through a database of SQLite.

        Raises:
            DamagedStoreError: it is there, and damaged.
        """
        path = self.sqlite
        if path is None or not path.is_file():
            return
        try:
            with closing(sqlite3.connect(read_only(path), uri=True)) as database:
                (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError:  # locked, or not to be read by this user
            return
        except sqlite3.DatabaseError as error:
            raise DamagedStoreError(path, error) from None
        if answer != "ok":
            raise DamagedStoreError(path, answer.splitlines()[-1])


def read_only(path: Path) -> str:
    """The URI by which sqlite3 opens a file without writing to it."""
    return f"file:{quote(str(path))}?mode=ro"


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
