"""What every source gives: documents as a Hugging Face dataset, and how they are dealt to the splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from recurlm.corpus.hugging_face import datasets

SPLITS = ("train", "validation", "test")
PIECE = 1 << 20  # characters or bytes: what is held of a long document at once

Lengths = npt.NDArray[np.int64]
"""The characters of each document that has any, in order."""

Run = tuple[str, int]
"""A split, and the character, counted over all documents, before which its stretch ends."""

Deal = Callable[[Lengths], Iterable[Run]]

FEATURES = datasets.Features(document=datasets.Value("int64"), text=datasets.Value("string"))


@dataclass(frozen=True)
class Part:
    """Documents in order, as a dataset of pieces: rows of one `document` number follow each other.

    A document comes in pieces because one file can be larger than memory. `deal` is the split that gets them all, or
    the rule that deals them out.
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


def dataset_of(rows: Callable[..., Iterator[dict[str, Any]]], **arguments: Any) -> datasets.IterableDataset:
    """The dataset whose rows `rows(**arguments)` yields, each time anew: nothing of it is held or copied."""
    return datasets.IterableDataset.from_generator(rows, features=FEATURES, gen_kwargs=arguments)


def pieces_of(documents: Iterable[Iterable[str]]) -> Iterator[dict[str, Any]]:
    """The rows of documents that come as pieces."""
    for number, document in enumerate(documents):
        for text in document:
            yield {"document": number, "text": text}
