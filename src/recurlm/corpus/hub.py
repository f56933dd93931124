"""Datasets of the Hugging Face Hub, pinned to a commit. They run no code: `datasets` refuses those that would.

A commit never changes, so what was prepared once is read from the cache, without asking the Hub again. Each commit has
a folder of its own there: left to itself, `datasets` falls back to whichever commit it holds when the Hub is silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from recurlm.config import Fetch, Hub
from recurlm.corpus import deals
from recurlm.corpus.base import PIECE, SPLITS, Part, Source, dataset_of, pieces_of
from recurlm.corpus.hub_errors import told_plainly
from recurlm.corpus.hugging_face import datasets, huggingface_hub
from recurlm.corpus.readers import text_of
from recurlm.errors import InputError, nearest

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
    folder = _prepared(hub)
    info = datasets.DatasetInfo.from_directory(str(folder))
    if hub.column not in info.features:
        raise InputError(f"fetch.hub: {hub.id} has no column '{hub.column}': {nearest(hub.column, info.features)}")
    if "train" not in info.splits:
        raise InputError(f"fetch.hub: {hub.id} has no train split, only {', '.join(info.splits)}")
    shares = SHARES[frozenset(info.splits) & {"validation", "test"}]
    return Source(
        kind="hub",
        name=f"{hub.id} {hub.config}" if hub.config else str(hub.id),
        revision=hub.revision,
        licence=info.license or None,
        parts=tuple(
            Part(
                dataset_of(_rows, folder=str(folder), split=split, column=hub.column, document=hub.document),
                share if isinstance(share, str) else partial(deals.by_order, shares=share),
            )
            for split, share in shares.items()
        ),
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
        {"preset": None, "config": None, "column": "text", "document": "row"} | PRESETS[hub.preset]
    )


def _prepared(hub: Hub) -> Path:
    """The folder that holds the dataset's splits as Arrow files: made on the first call."""
    name = f"{hub.id}/{hub.config or 'default'}".replace("/", "--")
    home = Path(datasets.config.HF_DATASETS_CACHE) / "pinned" / str(hub.revision)
    folder = home / name
    if (folder / datasets.config.DATASET_INFO_FILENAME).is_file():
        return folder
    with told_plainly(hub):
        # One question without retries: those that `datasets` asks would keep a person without network waiting.
        api = huggingface_hub.HfApi(endpoint=datasets.config.HF_ENDPOINT)
        card = api.dataset_info(str(hub.id), revision=hub.revision, timeout=10).card_data
        builder = datasets.load_dataset_builder(
            f"hf://datasets/{hub.id}", hub.config, revision=hub.revision, cache_dir=str(home / "nothing")
        )
        licence = (card and card.get("license")) or ""
        builder.info.license = licence if isinstance(licence, str) else ", ".join(licence)
        builder.download_and_prepare(str(folder))
    return folder


def _rows(folder: str, split: str, column: str, document: str) -> Iterator[dict[str, Any]]:
    texts = _texts(Path(folder), split, column)
    return pieces_of(([text] for text in texts) if document == "row" else [_gathered(texts)])


def _texts(folder: Path, split: str, column: str) -> Iterator[str]:
    row = 0
    name = re.compile(rf".+-{re.escape(split)}(-\d+-of-\d+)?\.arrow")
    for path in sorted(path for path in folder.iterdir() if name.fullmatch(path.name)):
        table = datasets.Dataset.from_file(str(path)).select_columns([column])  # stays on the disk
        for batch in table.iter(batch_size=1024):
            for value in batch[column]:
                row += 1
                yield text_of(value, column, f"fetch.hub: {split} split: row {row}")


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
