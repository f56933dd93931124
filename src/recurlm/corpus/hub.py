"""Datasets of the Hugging Face Hub, pinned to a commit. They run no code: `datasets` refuses those that would.

A commit never changes, so what was prepared once is read from the cache, without asking the Hub again. Each commit has
a folder of its own there: left to itself, `datasets` falls back to whichever commit it holds when the Hub is silent.
With `streaming` nothing is prepared, and text comes over the network each time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from recurlm.config import Fetch, Hub
from recurlm.corpus import deals
from recurlm.corpus.base import PIECE, SPLITS, Part, Source, dataset_of, datasets, huggingface_hub, rows_of
from recurlm.corpus.files import ROWS, text_of
from recurlm.errors import NO_ROOM, InputError, nearest
from recurlm.shards import SHARD

WIKITEXT = {"id": "Salesforce/wikitext", "revision": "b08601e04326c79dfdd32d625aee71d232d685c3", "document": "split"}

PRESETS: dict[str, dict[str, Any]] = {
    # A split is one text, as it is where papers score it.
    "wikitext-2": WIKITEXT | {"config": "wikitext-2-raw-v1"},
    "wikitext-103": WIKITEXT | {"config": "wikitext-103-raw-v1"},
    "tinystories": {"id": "roneneldan/TinyStories", "revision": "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64"},
}

# The held-out splits that a dataset has → what its own splits become, with shares of their documents in order.
SHARES: dict[frozenset[str], dict[str, str | dict[str, float]]] = {
    frozenset({"validation", "test"}): {split: split for split in SPLITS},
    frozenset({"validation"}): {"train": "train", "validation": {"validation": 0.5, "test": 0.5}},
    frozenset({"test"}): {"train": {"train": 0.95, "validation": 0.05}, "test": "test"},
    frozenset(): {"train": {"train": 0.9, "validation": 0.05, "test": 0.05}},
}


def source(params: Fetch) -> Source:
    """The dataset with its own splits; what it lacks is cut from those it has, as `SHARES` says.

    Raises:
        InputError: the preset, dataset, commit, config or column does not exist, or the Hub is out of reach.
    """
    hub = _resolve(params.hub)
    columns, licence, splits = _streamed(hub) if hub.streaming else _prepared(hub)
    if hub.column not in columns:
        raise InputError(f"fetch.hub: {hub.id} has no column '{hub.column}': {nearest(hub.column, columns)}")
    if "train" not in splits:
        raise InputError(f"fetch.hub: {hub.id} has no train split, only {', '.join(splits)}")
    parts = []
    for split, share in SHARES[frozenset(splits) & {"validation", "test"}].items():
        # All rows of a split that is one document are read by one process.
        shards = [[shard] for shard in splits[split]] if hub.document == "row" else [splits[split]]
        documents = dataset_of(_rows, shards, hub=hub, split=split)
        parts.append(Part(documents, share if isinstance(share, str) else partial(deals.by_order, shares=share)))
    return Source(
        kind="hub",
        name=f"{hub.id} {hub.config}" if hub.config else str(hub.id),
        revision=hub.revision,
        licence=licence or None,
        parts=tuple(parts),
        key=hub.model_dump(),
    )


def _resolve(hub: Hub) -> Hub:
    """The dataset that a preset stands for, or that the other lines name."""
    if hub.preset is None:
        # Without an owner, a name such as `text` would mean one of the readers that `datasets` brings.
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", hub.id or ""):
            raise InputError(f"params.yaml: fetch.hub.id is '{hub.id}': write it as owner/name")
        return hub
    if hub.preset not in PRESETS:
        raise InputError(f"params.yaml: fetch.hub.preset is '{hub.preset}': {nearest(hub.preset, PRESETS)}")
    if hub.id or hub.config or hub.revision:
        raise InputError("params.yaml: fetch.hub names a preset and a dataset of its own: set one of them to null")
    return Hub.model_validate(
        {"preset": None, "config": None, "column": "text", "document": "row", "streaming": hub.streaming}
        | PRESETS[hub.preset]
    )


Found = tuple[Iterable[str], str, dict[str, list[Any]]]
"""The columns of a dataset, its licence, and what each split can be read from, one process each."""


def _builder(hub: Hub, home: Path) -> datasets.DatasetBuilder:
    """What reads the dataset, with its licence in `info`."""
    # One question without retries: those that `datasets` asks would keep a person without network waiting.
    api = huggingface_hub.HfApi(endpoint=datasets.config.HF_ENDPOINT)
    card = api.dataset_info(str(hub.id), revision=hub.revision, timeout=10).card_data
    builder = datasets.load_dataset_builder(
        f"hf://datasets/{hub.id}", hub.config, revision=hub.revision, cache_dir=str(home / "nothing")
    )
    licence = (card and card.get("license")) or ""
    builder.info.license = licence if isinstance(licence, str) else ", ".join(licence)
    return builder


def _home(hub: Hub) -> Path:
    return Path(datasets.config.HF_DATASETS_CACHE) / "pinned" / str(hub.revision)


def _prepared(hub: Hub) -> Found:
    """The splits as Arrow files, made on the first call."""
    folder = _home(hub) / f"{hub.id}/{hub.config or 'default'}".replace("/", "--")
    if not (folder / datasets.config.DATASET_INFO_FILENAME).is_file():
        with told_plainly(hub):
            _builder(hub, _home(hub)).download_and_prepare(str(folder), max_shard_size=SHARD)
    info = datasets.DatasetInfo.from_directory(str(folder))
    names = {split: re.compile(rf".+-{re.escape(split)}(-\d+-of-\d+)?\.arrow") for split in info.splits}
    files = sorted(str(path) for path in folder.iterdir())
    own = {split: [path for path in files if name.fullmatch(Path(path).name)] for split, name in names.items()}
    return list(info.features), info.license, own


def _streamed(hub: Hub) -> Found:
    """The splits as files of the Hub, which are read over the network, and of which nothing is kept."""
    with told_plainly(hub):
        builder = _builder(hub, _home(hub))
        streams: dict[str, Any] = dict(builder.as_streaming_dataset())
        first = next(iter(streams.values()))
        columns = first.column_names or list(next(iter(first)))
        return columns, builder.info.license, {split: list(range(each.num_shards)) for split, each in streams.items()}


def _rows(shards: list[list[Any]], hub: Hub, split: str) -> Iterator[dict[str, Any]]:
    (parts,) = shards
    texts = _texts(parts, hub, split)
    return rows_of(([text] for text in texts) if hub.document == "row" else [_gathered(texts)])


def _texts(parts: list[Any], hub: Hub, split: str) -> Iterator[str]:
    with told_plainly(hub):
        stream: Any = _builder(hub, _home(hub)).as_streaming_dataset(split) if hub.streaming else None
        for part in parts:
            if stream is None:
                table: Any = datasets.Dataset.from_file(part).select_columns([hub.column])  # stays on the disk
            else:
                table = stream.shard(stream.num_shards, part).select_columns([hub.column])
            row, shard = 0, f"part {part}" if hub.streaming else Path(part).name
            for batch in table.iter(batch_size=ROWS):
                for value in batch[hub.column]:
                    row += 1
                    yield text_of(value, hub.column, f"fetch.hub: {split} split: row {row} of {shard}")


def _gathered(texts: Iterator[str]) -> Iterator[str]:
    """The same text in larger pieces."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= PIECE:
            yield "".join(held)
            held, size = [], 0
    yield "".join(held)


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
