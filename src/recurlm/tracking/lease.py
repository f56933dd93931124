"""One process at a time logs into a store that several machines share.

MLflow has no locks, but the names of registered models are unique: to create one is to take the lease, to delete it is
to give it back. Its holder counts a tag up; where the tag stands still, the holder is taken for dead.
"""

from __future__ import annotations

import random
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event, Thread

from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from recurlm.progress import say
from recurlm.tracking.store import Store

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
    seen, since, told, dead = "", time.monotonic(), False, False
    while True:
        if _create(client, name, tags):
            if not dead:
                return
            # Another machine may have found the same holder dead, and then deleted this lease in place of that one's.
            time.sleep(2 * POLL_SECONDS)
        found = _tags(client, name)
        if found.get(HOLDER) == tags[HOLDER]:  # the answer to a first request was lost
            return
        if (beat := f"{found.get(HOLDER)} {found.get(BEAT)}") != seen:
            seen, since = beat, time.monotonic()
        # One of this machine is that of a dead process: only one has the lock file.
        if found.get(MACHINE) == tags[MACHINE] or time.monotonic() - since > EXPIRES_SECONDS:
            _release(client, name, found)
            dead = True
            continue
        if not told:
            say("track: another machine logs into this experiment: waiting for it")
            told = True
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
