"""A person's own text files."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

from recurlm.config import Fetch, Files
from recurlm.corpus import deals, readers
from recurlm.corpus.base import SPLITS, Deal, Lengths, Part, Run, Source, dataset_of
from recurlm.errors import InputError
from recurlm.progress import say


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
    name = files.name or (Path(files.path).name if Path(files.path).is_absolute() else files.path)
    return Source(kind="files", name=name, revision=None, licence=files.licence, parts=parts)


def _deal(files: Files) -> Deal:
    shares = {
        "train": 1 - (files.val_fraction + files.test_fraction),
        "validation": files.val_fraction,
        "test": files.test_fraction,
    }
    by_position = partial(deals.by_position, shares=shares)
    by_document = partial(
        deals.by_document_fractions, validation=files.val_fraction, test=files.test_fraction, seed=files.seed
    )

    def documents_or_position(lengths: Lengths) -> Iterable[Run]:
        if len(lengths) >= len(SPLITS):
            return by_document(lengths)
        say(
            f"fetch: {len(lengths)} document(s) cannot fill three splits: split by position, as with "
            f"fetch.files.split: position; the first {shares['train']:.0%} is trained on"
        )
        return by_position(lengths)

    return documents_or_position if files.split == "documents" else by_position


def _dataset(pattern: str, field: str) -> Any:
    return dataset_of(_rows, paths=_find(pattern), field=field)


def _find(pattern: str) -> tuple[str, ...]:
    """The files that a glob means, by name. A tuple: Hugging Face would take a list for shards."""
    if Path(pattern).is_file():
        return (pattern,)
    if Path(pattern).is_dir():
        raise InputError(f"{pattern}: a folder: name its files, for instance {Path(pattern) / '*.txt'}")
    matches = [Path(path) for path in sorted(glob.glob(pattern, recursive=True))]  # noqa: PTH207
    for path in matches:
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path}: a link to {path.readlink()}, which does not exist: mend or delete it")
        if not path.is_file() and not path.is_dir():
            raise InputError(f"{path}: no file that can be read twice (a pipe, a socket or a device): name others")
    found = tuple(str(path) for path in matches if path.is_file())
    if not found:
        raise InputError(f"{pattern}: no such file: set fetch.files in params.yaml to where your text lies")
    return found


def _rows(paths: tuple[str, ...], field: str) -> Iterator[dict[str, Any]]:
    number, empty = 0, 0
    for path in paths:
        has_text = False
        for document in readers.read(Path(path), field):
            for text in document:
                has_text = has_text or bool(text)
                yield {"document": number, "text": text}
            number += 1
        if not has_text:
            empty += 1
            if empty == len(paths):
                raise InputError(
                    f"{path}: empty: there is no text in it" + (", nor in the others" if empty > 1 else "")
                )
            _say_once(f"{path}: empty: skipped")


@cache
def _say_once(line: str) -> None:
    """Files are read twice where documents are drawn."""
    say(f"fetch: {line}")
