"""What every source gives: documents as a Hugging Face dataset, and how they are dealt to the splits.

Everyone else imports `datasets` and `huggingface_hub` from here: they read their environment once, while they are
imported. What a person has set themselves stays as it is.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int64, UInt8

# The stages run in the folder that holds params.yaml.
os.environ.setdefault("HF_HOME", str(Path.cwd() / ".cache" / "huggingface"))
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Bad input gets one line, and that is ours.
os.environ.setdefault("DATASETS_VERBOSITY", "critical")
os.environ.setdefault("HF_HUB_VERBOSITY", "critical")
if not sys.stderr.isatty():
    os.environ.setdefault("HF_DATASETS_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
# Reading text needs no torch, and importing it takes longer than the default fetch.
os.environ.setdefault("USE_TORCH", "0")

import datasets
import huggingface_hub

__all__ = ["PIECE", "SPLITS", "Deal", "Part", "Runs", "Source", "dataset_of", "datasets", "huggingface_hub", "rows_of"]

SPLITS = ("train", "validation", "test")
PIECE = 1 << 20  # characters or bytes: what is held of a long document at once
GOES_ON = -1  # the number of a shard's first document that began in the shard before it

Runs = tuple[UInt8[np.ndarray, "runs"], Int64[np.ndarray, "runs"]]
"""Stretches of text, in order: the number of each one's split, and the character before which it ends."""

Deal = Callable[[Int64[np.ndarray, "documents"]], Runs]
"""From the characters of each document that has any, in order."""


@dataclass(frozen=True)
class Part:
    """Documents in order, as a dataset of pieces: rows of one `document` number follow each other.

    A document comes in pieces because one file can be larger than memory. What one process reads is a shard of the
    dataset; documents are numbered within it. `deal` is the split that gets them all, or the rule that deals them out.
    """

    documents: datasets.IterableDataset
    deal: str | Deal
    names: tuple[str, ...] = ()
    """A name for each document, where a source has them."""


@dataclass(frozen=True)
class Source:
    kind: str
    name: str
    revision: str | None
    licence: str | None
    parts: tuple[Part, ...]
    key: Any = field(default=None)
    """For JSON: says whether the text is that of an earlier run that was killed."""


def dataset_of(
    rows: Callable[..., Iterator[dict[str, Any]]], shards: list[Any], **more: Any
) -> datasets.IterableDataset:
    """The dataset whose shard i has the rows of `rows([shards[i]], **more)`: nothing of it is held or copied."""
    return datasets.IterableDataset.from_generator(rows, gen_kwargs={"shards": shards, **more})


def rows_of(documents: Iterable[Iterable[str]], goes_on: bool = False) -> Iterator[dict[str, Any]]:
    """The rows of documents that come as pieces; the first may go on from the shard before."""
    for number, document in enumerate(documents, GOES_ON if goes_on else 0):
        for text in document:
            yield {"document": number, "text": text}
