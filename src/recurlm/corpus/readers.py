"""The documents inside a file: a `.txt` is one, each line of a `.jsonl`, each row of a `.parquet`; `.gz` of all three.

Python's and Hugging Face's own text readers translate or drop line ends; these keep every byte of the text. A byte
order mark at a file's start is no text: it says how the file is encoded.
"""

from __future__ import annotations

import gzip
import json
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from recurlm.corpus.base import PIECE
from recurlm.corpus.utf8 import decode
from recurlm.errors import InputError, nearest

BYTE_ORDER_MARK = "\ufeff"

ByteFile = IO[bytes] | gzip.GzipFile


def read(path: Path, field: str) -> Iterator[Iterable[str]]:
    """The documents of one file, each as pieces to be read before the next document.

    Raises:
        InputError: the file is not what its name says, or a document has no text in `field`.
    """
    kind = Path(path.stem if path.suffix == ".gz" else path.name).suffix
    if kind not in READERS:
        raise InputError(
            f"{path}: '{kind}' is no kind of file that can be read: {', '.join(READERS)}, each also as .gz"
        )
    return READERS[kind](path, field)


def _txt(path: Path, _: str) -> Iterator[Iterable[str]]:
    yield _without_mark(decode(_chunks(path), str(path)))


def _without_mark(pieces: Iterable[str]) -> Iterator[str]:
    for number, text in enumerate(pieces):
        yield text.removeprefix(BYTE_ORDER_MARK) if number == 0 else text


def _jsonl(path: Path, field: str) -> Iterator[Iterable[str]]:
    offset = 0
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            text = "".join(decode([line], str(path), offset))
            offset += len(line)
            if number == 1:
                text = text.removeprefix(BYTE_ORDER_MARK)
            if text.strip():
                yield [_field_of(text, field, f"{path}: line {number}")]


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


def _parquet(path: Path, field: str) -> Iterator[Iterable[str]]:
    row = 0
    with _opened(path) as file, _seekable(file) as seekable:
        try:
            table = pq.ParquetFile(seekable)
            columns = table.schema_arrow.names
            if field not in columns:
                raise InputError(f"{path}: no column '{field}': {nearest(field, columns)}")
            for batch in table.iter_batches(batch_size=1024, columns=[field]):
                for value in batch.column(0).to_pylist():
                    row += 1
                    yield [text_of(value, field, f"{path}: row {row}")]
        except UnicodeDecodeError:
            raise InputError(f"{path}: after row {row}: '{field}' holds text that is not UTF-8") from None
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


def _chunks(path: Path) -> Iterator[bytes]:
    with _opened(path) as file:
        while chunk := file.read(PIECE):
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
