"""What can go wrong between here and the Hub, in one line each."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa

from recurlm.config import Hub
from recurlm.corpus.hugging_face import datasets, huggingface_hub
from recurlm.errors import NO_ROOM, InputError, nearest

ANY_HTTP_ERROR = huggingface_hub.utils.httpx.HTTPError  # type: ignore[attr-defined]  # of the client that it runs on


@contextmanager
def told_plainly(hub: Hub) -> Iterator[None]:
    """Turn the errors of `datasets` and `huggingface_hub` into InputErrors that name the parameter to change."""
    endpoint = datasets.config.HF_ENDPOINT
    try:
        yield
    except huggingface_hub.errors.RevisionNotFoundError:
        raise InputError(f"fetch.hub.revision: {hub.id} has no commit {hub.revision} on {endpoint}") from None
    except (huggingface_hub.errors.RepositoryNotFoundError, datasets.exceptions.DatasetNotFoundError):
        raise InputError(f"fetch.hub.id: no dataset {hub.id} on {endpoint}, or one that asks for a login") from None
    except huggingface_hub.errors.HFValidationError as error:
        raise InputError(f"fetch.hub.id is '{hub.id}': {_first_line(error)}") from None
    except (datasets.exceptions.DatasetsError, pa.ArrowException) as error:
        cause = error.__cause__ or error
        if isinstance(cause, OSError) and cause.errno in NO_ROOM:
            raise cause from None
        raise InputError(f"fetch.hub: {hub.id} cannot be read ({_first_line(cause)})") from None
    except (ConnectionError, FileNotFoundError, ANY_HTTP_ERROR) as error:
        raise InputError(
            f"fetch.hub: {endpoint} is out of reach, and {hub.id} is not in the cache ({_first_line(error)}): "
            f"check the network, or set fetch.source to 'packaged'"
        ) from None
    except RuntimeError as error:
        if "scripts" not in str(error):
            raise
        raise InputError(f"fetch.hub: {hub.id} is a script, and no code of others is run: find it as parquet") from None
    except ValueError as error:
        configs = _available_configs(error)
        if not configs:
            raise
        raise InputError(f"fetch.hub.config is '{hub.config}': {nearest(hub.config or '', configs)}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise InputError(f"fetch.hub: {error}") from None


def _first_line(error: BaseException) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__


def _available_configs(error: ValueError) -> list[str]:
    """The names in the message about an unknown or a missing config; none if it is about something else."""
    listed = re.search(r"(?:Available|available configs): \[(.*?)\]", str(error), re.DOTALL)
    return re.findall(r"'([^']+)'", listed[1]) if listed else []
