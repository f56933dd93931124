"""A person's own text files: a `.txt` is one document, each line of a `.jsonl`, each row of a `.parquet`; `.gz` of all.

Every byte of the text is kept. With Hugging Face's `load_dataset` it would not be: "text" translates line ends, "json"
makes a date of a text that looks like one. A byte order mark at a file's start is no text: it says how the file is
encoded.
"""

from __future__ import annotations

import glob
import gzip
import json
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import chain, pairwise
from pathlib import Path
from typing import IO, Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from recurlm.config import Fetch, Files
from recurlm.corpus import deals
from recurlm.corpus.base import PIECE, SPLITS, Deal, Part, Runs, Source, dataset_of, rows_of
from recurlm.corpus.reader import decode
from recurlm.errors import InputError, nearest
from recurlm.progress import say
from recurlm.shards import SHARD

BYTE_ORDER_MARK = "\ufeff"
SEARCHED = 1 << 16  # bytes, for a place to cut
ROWS = 16  # of a table, held at once: each may be a whole book

ByteFile = IO[bytes] | gzip.GzipFile


class Stretch(NamedTuple):
    """A part of a file that one process reads: bytes, or the row groups of a .parquet."""

    path: str
    begin: int
    end: int | None  # None: the file's end
    state: tuple[int, int]  # of the file: size, and time of its last change

    @property
    def goes_on(self) -> bool:
        """Whether it begins inside a document."""
        return self.begin > 0 and self.path.endswith(".txt")


def source(params: Fetch) -> Source:
    """The files of a glob, dealt to the splits by document or by position; or a glob for each split.

    Raises:
        InputError: a path leads to no file, or a file is trained on and held out too.
    """
    files = params.files
    if files.split == "explicit":
        patterns = {"train": files.path, "validation": files.validation_path, "test": files.test_path}
        shards = {split: _shards(str(pattern)) for split, pattern in patterns.items()}
        _check_apart(shards)
    else:
        shards = {"all": _shards(files.path)}
    parts = tuple(
        Part(_dataset(each, files.field), _deal(files) if split == "all" else split) for split, each in shards.items()
    )
    # Where the files lie on one machine is not part of the result.
    name = files.name or (Path(files.path).name if Path(files.path).is_absolute() else files.path)
    key = [files.model_dump(), shards]
    return Source(kind="files", name=name, revision=None, licence=files.licence, parts=parts, key=key)


def _check_apart(shards: dict[str, list[list[Stretch]]]) -> None:
    """Refuse a train split that holds a held-out file: its scores would be those of text known by heart."""
    held_out, trained = (
        {Path(stretch.path).resolve(): (split, stretch.path) for split in splits for stretch in chain(*shards[split])}
        for splits in (SPLITS[1:], SPLITS[:1])
    )
    for path, (_, name) in trained.items():
        if path in held_out:
            raise InputError(
                f"params.yaml: fetch.files.path: {name} is a file of {held_out[path][0]}_path too: leave it out of path"
            )


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

    def documents_or_position(lengths: deals.Lengths) -> Runs:
        if len(lengths) >= len(SPLITS):
            return by_document(lengths)
        say(
            f"fetch: {len(lengths)} document(s) cannot fill three splits: split by position, as with "
            f"fetch.files.split: position; the first {shares['train']:.0%} is trained on"
        )
        return by_position(lengths)

    return documents_or_position if files.split == "documents" else by_position


def _dataset(shards: list[list[Stretch]], field: str) -> Any:
    return dataset_of(_rows, shards, field=field, alone=sum(map(len, shards)) == 1)


def _shards(pattern: str) -> list[list[Stretch]]:
    """The files that a glob means, by name, in shards: many small ones, or a part of a large one."""
    shards: list[list[Stretch]] = [[]]
    size = 0
    for stretch, stretch_size in chain.from_iterable(map(_stretches, _find(pattern))):
        if shards[-1] and size + stretch_size > SHARD:
            shards.append([])
            size = 0
        shards[-1].append(stretch)
        size += stretch_size
    return shards


def _find(pattern: str) -> list[str]:
    if Path(pattern).is_file():
        return [_named_in_utf8(pattern)]
    if Path(pattern).is_dir():
        raise InputError(f"{pattern}: a folder: name its files, for instance {Path(pattern) / '*.txt'}")
    matches = [Path(path) for path in sorted(set(glob.glob(pattern, recursive=True)))]  # noqa: PTH207
    for path in matches:
        if path.is_symlink() and not path.exists():
            raise InputError(f"{path}: a link to {path.readlink()}, which does not exist: mend or delete it")
        if not path.is_file() and not path.is_dir():
            raise InputError(f"{path}: no file that can be read twice (a pipe, a socket or a device): name others")
    files = [_named_in_utf8(str(path)) for path in matches if path.is_file()]
    if not files:
        raise InputError(f"{pattern}: no such file: set fetch.files in params.yaml to where your text lies")
    return files


def _named_in_utf8(path: str) -> str:
    """The path, if it can be written into a manifest or a message."""
    try:
        path.encode("utf-8")
    except UnicodeEncodeError:
        shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        raise InputError(f"{shown}: the name of this file is not UTF-8: rename it") from None
    return path


def _stretches(path: str) -> Iterator[tuple[Stretch, int]]:
    """A file in parts of about a shard, each with its size; gzip can only be read from its start."""
    state = _state(path)
    size, places = state[0], [0]
    if size > SHARD and path.endswith((".txt", ".jsonl")):
        with Path(path).open("rb") as file:
            places += [place for nominal in range(SHARD, size - SHARD // 2, SHARD) if (place := _place(file, nominal))]
    elif size > SHARD and path.endswith(".parquet"):
        with _opened(Path(path)) as opened, _as_parquet(path, opened) as table:
            ends = np.cumsum([table.metadata.row_group(group).total_byte_size for group in range(table.num_row_groups)])
            places = np.unique(np.searchsorted(ends, range(0, int(ends[-1]), SHARD), side="right")).tolist()
    for begin, end in pairwise([*places, None]):
        yield Stretch(path, begin or 0, end, state), size // len(places)


def _place(file: IO[bytes], nominal: int) -> int | None:
    """Where a file may be cut after a byte: at the end of a word, or of a line of .jsonl, soon after it.

    The end of a word, before a space or a line end, is a place where no kind of tokenizer has a token on both sides.
    """
    file.seek(nominal)
    window = file.read(SEARCHED)
    if file.name.endswith(".jsonl"):
        return nominal + end + 1 if (end := window.find(b"\n")) >= 0 else None
    for match in re.finditer(rb"[ \n]", window):
        before = window[max(0, match.start() - 4) : match.start()].decode("utf-8", "ignore")[-1:]
        if before and not before.isspace():
            return nominal + match.start()
    return None


def _state(path: str) -> tuple[int, int]:
    status = Path(path).stat()
    return status.st_size, status.st_mtime_ns


def _rows(shards: list[list[Stretch]], field: str, alone: bool) -> Iterator[dict[str, Any]]:
    (stretches,) = shards
    goes_on = stretches[0].goes_on
    yield from rows_of(chain.from_iterable(_documents(stretch, field, alone) for stretch in stretches), goes_on)


def _documents(stretch: Stretch, field: str, alone: bool) -> Iterator[Iterable[str]]:
    path, has_text = Path(stretch.path), False

    def noticed(pieces: Iterable[str]) -> Iterator[str]:
        nonlocal has_text
        for text in pieces:
            has_text = has_text or bool(text)
            yield text

    for document in _reader(path)(stretch, field):
        yield noticed(document)
    if _state(stretch.path) != stretch.state:
        raise InputError(f"{path}: changed while it was read: fetch it again when it is whole")
    if not has_text and not alone:
        say(f"fetch: {path}: empty: skipped")


def _reader(path: Path) -> Any:
    kind = Path(path.stem if path.suffix == ".gz" else path.name).suffix
    if kind not in READERS:
        raise InputError(
            f"{path}: '{kind}' is no kind of file that can be read: {', '.join(READERS)}, each also as .gz"
        )
    return READERS[kind]


def _txt(stretch: Stretch, _: str) -> Iterator[Iterable[str]]:
    pieces = decode(_chunks(stretch), stretch.path, stretch.begin)
    yield pieces if stretch.begin else _without_mark(pieces)


def _without_mark(pieces: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(pieces):
        yield text.removeprefix(BYTE_ORDER_MARK) if number == 0 else text


def _jsonl(stretch: Stretch, field: str) -> Iterator[Iterable[str]]:
    offset = stretch.begin
    with _opened(Path(stretch.path)) as file:
        number = 0
        if stretch.begin:
            file.seek(stretch.begin)
        while (stretch.end is None or offset < stretch.end) and (line := file.readline()):
            number += 1
            text = "".join(decode([line], stretch.path, offset))
            offset += len(line)
            if number == 1 and not stretch.begin:
                text = text.removeprefix(BYTE_ORDER_MARK)
            if text.strip():
                try:
                    document = _field_of(text, field, f"{stretch.path}: line {number}")
                except InputError:
                    # Only now it matters how many lines come before.
                    number += sum(chunk.count(b"\n") for chunk in _chunks(stretch._replace(begin=0, end=stretch.begin)))
                    document = _field_of(text, field, f"{stretch.path}: line {number}")
                yield [document]


def _field_of(line: str, field: str, where: str) -> str:
    try:
        record = json.loads(line)
    except json.JSONDecodeError as error:
        raise InputError(f"{where}: not JSON ({error.msg} at character {error.pos})") from None
    except RecursionError:
        raise InputError(f"{where}: JSON that is nested too deeply to be read") from None
    except ValueError:  # Python reads no integer of more than some 4,300 digits
        raise InputError(f"{where}: holds an integer of too many digits to be read") from None
    if not isinstance(record, dict) or not record:
        raise InputError(f"{where}: holds no fields")
    if field not in record:
        raise InputError(f"{where}: no field '{field}': {nearest(field, record)}")
    return text_of(record[field], field, where)


def _parquet(stretch: Stretch, field: str) -> Iterator[Iterable[str]]:
    path = stretch.path
    with _opened(Path(path)) as file, _seekable(file) as seekable, _as_parquet(path, seekable) as table:
        columns = table.schema_arrow.names
        if field not in columns:
            raise InputError(f"{path}: no column '{field}': {nearest(field, columns)}")
        groups = range(table.num_row_groups)[stretch.begin : stretch.end]
        row = sum(table.metadata.row_group(group).num_rows for group in range(stretch.begin))
        for batch in table.iter_batches(batch_size=ROWS, row_groups=groups, columns=[field]):
            try:
                values = batch.column(0).to_pylist()
            except UnicodeDecodeError:
                raise InputError(f"{path}: after row {row}: '{field}' holds text that is not UTF-8") from None
            for value in values:
                row += 1
                yield [text_of(value, field, f"{path}: row {row}")]


@contextmanager
def _as_parquet(path: str, file: Any) -> Iterator[pq.ParquetFile]:
    try:
        # Else the whole of a group of rows would be read ahead.
        yield pq.ParquetFile(file, pre_buffer=False, buffer_size=PIECE)
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the machine's trouble, not the file's
        raise InputError(f"{path}: not a whole parquet file ({error})") from None


READERS = {".txt": _txt, ".jsonl": _jsonl, ".parquet": _parquet}


def text_of(value: Any, field: str, where: str) -> str:
    """The text of one record.

    Raises:
        InputError: the value is no text, or text that UTF-8 has no bytes for.
    """
    if not isinstance(value, str):
        raise InputError(f"{where}: '{field}' holds {'nothing' if value is None else type(value).__name__}, not text")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InputError(f"{where}: '{field}' holds half a surrogate pair at character {error.start}") from None
    return value


def _chunks(stretch: Stretch) -> Iterator[bytes]:
    left = None if stretch.end is None else stretch.end - stretch.begin
    with _opened(Path(stretch.path)) as file:
        if stretch.begin:
            file.seek(stretch.begin)
        while chunk := file.read(PIECE if left is None else min(PIECE, left)):
            left = left if left is None else left - len(chunk)
            yield chunk


@contextmanager
def _opened(path: Path) -> Iterator[ByteFile]:
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            yield file
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InputError(f"{path}: not a whole gzip file ({error})") from None
    except PermissionError:
        raise InputError(f"{path}: may not be read: check its permissions") from None


@contextmanager
def _seekable(file: ByteFile) -> Iterator[ByteFile]:
    """Parquet is read from its end, gzip only from its start."""
    if not isinstance(file, gzip.GzipFile):
        yield file
        return
    with tempfile.TemporaryFile() as plain:
        shutil.copyfileobj(file, plain, PIECE)
        plain.seek(0)
        yield plain
