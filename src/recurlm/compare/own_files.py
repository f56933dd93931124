"""Whether a person's own files are those that the comparison's corpus was made of: DVC does not watch them."""

from __future__ import annotations

from recurlm.compare.settings import Compare
from recurlm.config import Params
from recurlm.corpus import files
from recurlm.corpus.base import Source
from recurlm.storage import read_json, write_json
from recurlm.training.checkpoint import run_key


def keep(compare: Compare, source: Source) -> None:
    """Note the state of the files that the corpus was made of, beside the corpus."""
    write_json(compare.folder / "files.json", _state(source))


def changed(compare: Compare, params: Params) -> bool:
    """Whether files were edited, added or removed since; never so of a corpus that is no person's own.

    Raises:
        InputError: a path leads to no file.
    """
    note = compare.folder / "files.json"
    if params.fetch.source != "files" or not (compare.folder / "corpus").exists():
        return False
    return not note.is_file() or read_json(note) != _state(files.source(params.fetch))


def _state(source: Source) -> str:
    """A hash of the files' names, sizes and times of change, and of how they are read."""
    return run_key({"files": source.key}, [])
