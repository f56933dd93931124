"""The tracking store: the checkout's own SQLite database, or the one at MLFLOW_TRACKING_URI; how it is reached."""

from __future__ import annotations

import fcntl
import getpass
import hashlib
import logging
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from recurlm.errors import InputError

if TYPE_CHECKING:  # MLflow takes seconds to import
    from mlflow import MlflowClient
import random
import socket
import time
import uuid
from threading import Event, Thread

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from recurlm.progress import say

KEY = "recurlm.key"  # tag of a run: the key of its result


class StoreError(InputError):
    """The store is out of reach, or refuses."""

    def __init__(
        self, problem: str, remedy: str = "bring the store up, or unset MLFLOW_TRACKING_URI, and run it again"
    ) -> None:
        super().__init__(f"{problem}; the results in data/ are complete: {remedy}")
        self.problem = problem


class DamagedStoreError(StoreError):
    """The SQLite file of a store is no database any more; no result is in it alone."""

    def __init__(self, path: Path, problem: object) -> None:
        remedy = f"move it away (mv '{path}' '{path}.damaged'), then recurlm sync fills a new one"
        super().__init__(f"{path}: a damaged database ({problem})", remedy)


@dataclass(frozen=True)
class Store:
    uri: str
    own: Path | None  # folder of the checkout's own store; None for any other store

    @property
    def artifacts(self) -> str | None:
        """Where a new experiment keeps its artifacts; None: the store's default."""
        return (self.own / "artifacts").as_uri() if self.own else None

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

    def holds(self, uri: str | None) -> bool:
        """Whether an artifact lies in this store's folder: a copied checkout names those of the original."""
        return self.artifacts is None or (uri or "").startswith(f"{self.artifacts}/")

    def check(self) -> None:
        """Read through a database of SQLite.

        Raises:
            DamagedStoreError: it is there, and damaged.
        """
        name = self.uri.removeprefix("sqlite:///")
        if name == self.uri or "?" in name or not Path(name).is_file():
            return
        try:
            with closing(sqlite3.connect(f"file:{quote(name)}?mode=ro", uri=True)) as database:
                (answer,) = database.execute("PRAGMA quick_check(1)").fetchone()
        except sqlite3.OperationalError:  # locked, or not to be read by this user
            return
        except sqlite3.DatabaseError as error:
            raise DamagedStoreError(Path(name), error) from None
        if answer != "ok":
            raise DamagedStoreError(Path(name), answer.splitlines()[-1])

    @contextmanager
    def connected(self, check: bool = True) -> Iterator[MlflowClient]:
        """A client of the store.

        Args:
            check: read a database of SQLite through first; after an error it is read through in any case.

        Raises:
            StoreError: the store is out of reach, refuses, is damaged, or went away in the middle.
        """
        if check:
            self.check()
        from mlflow.exceptions import MlflowException
        from requests.exceptions import RequestException
        from sqlalchemy.exc import SQLAlchemyError

        for name in ("alembic", "mlflow"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            self._reach_database()
            yield self._client()
        except (MlflowException, SQLAlchemyError, RequestException) as error:
            self.check()
            remote = isinstance(error, RequestException) or isinstance(error.__context__, RequestException)
            # MLflow's own messages have many lines, and may contain a password.
            problem = "out of reach" if remote else str(error).splitlines()[0].partition(". ")[0][:300]
            raise StoreError(f"MLflow at {without_password(self.uri)}: {problem}") from None

    def _reach_database(self) -> None:
        """Connect once to the server of a database: MLflow would try a wrong password for minutes, without a word."""
        if urlsplit(self.uri).scheme.partition("+")[0] not in ("postgresql", "mysql", "mssql"):
            return
        from sqlalchemy import NullPool, create_engine

        try:
            create_engine(self.uri, poolclass=NullPool).connect().close()
        except ImportError:  # `_client` says that there is no driver
            return

    def _client(self) -> MlflowClient:
        import mlflow

        try:
            if self.own and not (self.own / "mlflow.db").exists():
                # MLflow cannot open a database with half of its tables: it appears whole, or not at all.
                partial = self.own / "mlflow.db.partial"
                partial.unlink(missing_ok=True)
                mlflow.MlflowClient(f"sqlite:///{partial}").search_experiments()
                partial.rename(self.own / "mlflow.db")
            mlflow.set_tracking_uri(self.uri)
            mlflow.set_registry_uri(self.uri)
            return mlflow.MlflowClient(self.uri, self.uri)
        except (OSError, ImportError) as error:  # no such folder for SQLite, or no driver for another database
            raise mlflow.MlflowException(str(error)) from None


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


def user() -> str:
    """Who runs this; MLflow never changes it in a run."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # no entry for this user
        return "unknown"


def without_password(uri: str) -> str:
    host = urlsplit(uri).netloc
    return uri.replace(host, host.rpartition("@")[2]) if host else uri


def open_experiment(client: MlflowClient, store: Store, name: str) -> str:
    """The id of the experiment, which is created where there is none, and restored where it was deleted."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment and store.artifacts and experiment.artifact_location != store.artifacts:
        # The checkout was moved or copied, and this experiment keeps its artifacts in the original checkout.
        client.rename_experiment(experiment.experiment_id, f"{name}, from {experiment.artifact_location}")
        experiment = None
    if experiment is None:
        # Without a kind the UI asks for one; the other kind shows traces in place of runs. There is no call for it.
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


# A lease: one process at a time logs into a store that several machines share. MLflow has no locks, but the names of
# registered models are unique: to create one is to take the lease, to delete it is to give it back. Its holder counts a
# tag up; where the tag stands still, the holder is taken for dead.

BEAT_SECONDS = 5.0
EXPIRES_SECONDS = 60.0  # without a beat
POLL_SECONDS = 1.0  # on average
MACHINE, HOLDER, BEAT = "recurlm.machine", "recurlm.holder", "recurlm.beat"  # tags of the registered model
NOTE = "Here while `recurlm sync` logs, so that other machines wait."


@contextmanager
def leased(client: MlflowClient, store: Store, experiment: str) -> Iterator[None]:
    """Hold the lease of an experiment, within `store.locked()`, which is enough for a checkout's own store."""
    if store.own:
        yield
        return
    name, over = f"{experiment}.lease", Event()
    tags = {MACHINE: f"{socket.gethostname()} {store.lock}", HOLDER: uuid.uuid4().hex, BEAT: "0"}
    _take(client, name, tags)
    Thread(target=_beat, args=(client, name, over), daemon=True).start()
    try:
        yield
    except MlflowException:  # where the store is away, to release the lease would only take long: it expires
        raise
    except BaseException:
        _release(client, name, tags)
        raise
    else:
        _release(client, name, tags)
    finally:
        over.set()


def _take(client: MlflowClient, name: str, tags: dict[str, str]) -> None:
    seen, since, said, dead = "", time.monotonic(), False, False
    while True:
        if _create(client, name, tags):
            if not dead:
                return
            # Another machine may have found the same holder dead, and then deleted this lease in place of that one's.
            time.sleep(2 * POLL_SECONDS)
        lease = _tags(client, name)
        if lease.get(HOLDER) == tags[HOLDER]:  # the answer to a first request was lost
            return
        if (beat := f"{lease.get(HOLDER)} {lease.get(BEAT)}") != seen:
            seen, since = beat, time.monotonic()
        # One of this machine is that of a dead process: only one has the lock file.
        if lease.get(MACHINE) == tags[MACHINE] or time.monotonic() - since > EXPIRES_SECONDS:
            _release(client, name, lease)
            dead = True
            continue
        if not said:
            say("track: another machine logs into this experiment: waiting for it")
            said = True
        time.sleep(POLL_SECONDS * random.uniform(0.5, 1.5))


def _create(client: MlflowClient, name: str, tags: dict[str, str]) -> bool:
    """Whether the name was free."""
    try:
        client.create_registered_model(name, tags, NOTE)
    except MlflowException as error:
        # The second: it was there, and was deleted before the server could say so.
        if error.error_code not in ("RESOURCE_ALREADY_EXISTS", "RESOURCE_DOES_NOT_EXIST"):
            raise
        return False
    return True


def _release(client: MlflowClient, name: str, tags: dict[str, str]) -> None:
    """Delete the lease, if it still has this holder."""
    if tags and _tags(client, name).get(HOLDER) == tags.get(HOLDER):
        try:
            client.delete_registered_model(name)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise


def _tags(client: MlflowClient, name: str) -> dict[str, str]:
    """The lease's tags; none where there is no lease."""
    try:
        return dict(client.get_registered_model(name).tags)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return {}


def _beat(client: MlflowClient, name: str, over: Event) -> None:
    number = 0
    while not over.wait(BEAT_SECONDS):
        number += 1
        try:
            client.set_registered_model_tag(name, BEAT, str(number))
        except Exception:  # the process that logs says what is wrong with the store
            continue
