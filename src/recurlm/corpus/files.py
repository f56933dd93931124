"""A person's own text files."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from recurlm.config import Fetch, Files
from recurlm.corpus import deals, readers
from recurlm.corpus.base import Deal, Part, Source, dataset_of
from recurlm.errors import InputError


def source(params: Fetch) -> Source:
    """The files of a glob, dealt to the splits by document or by position; or a glob for each split.

    Raises:
        InputError: a path leads to no file.
    """
    files = params.files
    if files.split == "explicit":
        paths = {"train": files.path, "validation": files.validation_path, "test": files.test_path}
        parts = tuple(Part(_dataset(str(path), files.field), split) for split, path in paths.items())
    else:
        parts = (Part(_dataset(files.path, files.field), _deal(files)),)
    # Where the files lie on one machine is not part of the result.
    name = Path(files.path).name if Path(files.path).is_absolute() else files.path
    return Source(kind="files", name=name, revision=None, licence=None, parts=parts)


def _deal(files: Files) -> Deal:
    if files.split == "documents":
        return partial(
            deals.by_document_fractions, validation=files.val_fraction, test=files.test_fraction, seed=files.seed
        )
    shares = {
        "train": 1 - (files.val_fraction + files.test_fraction),
        "validation": files.val_fraction,
        "test": files.test_fraction,
    }
    return partial(deals.by_position, shares=shares)


def _dataset(pattern: str, field: str) -> Any:
    return dataset_of(_rows, paths=_find(pattern), field=field)


def _find(pattern: str) -> tuple[str, ...]:
    """The files that a glob means, by name. A tuple: Hugging Face would take a list for shards."""
    if Path(pattern).is_file():
        return (pattern,)
    if Path(pattern).is_dir():
        raise InputError(f"{pattern}: a folder: name its files, for instance {Path(pattern) / '*.txt'}")
    found = tuple(sorted(path for path in glob.glob(pattern, recursive=True) if Path(path).is_file()))  # noqa: PTH207
    if not found:
        raise InputError(f"{pattern}: no such file: set fetch.files in params.yaml to where your text lies")
    return found


def _rows(paths: tuple[str, ...], field: str) -> Iterator[dict[str, Any]]:
    number = 0
    for path in paths:
        empty = True
        for document in readers.read(Path(path), field):
            for text in document:
                empty = empty and not text
                yield {"document": number, "text": text}
            number += 1
        if empty:
            raise InputError(f"{path}: empty: there is no text in it")
