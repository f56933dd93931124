"""Files that appear whole or not at all: written beside their place, synced, then renamed into it."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from recurlm.errors import InputError, KilledError

WORK = ".work"  # in a folder that is being filled: what is done


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; it becomes `path` only if the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
        sync(partial)
        partial.replace(path)
        sync(path.parent)
    finally:
        partial.unlink(missing_ok=True)


@contextmanager
def whole_folder(path: Path, key: Any = None) -> Iterator[Path]:
    """Yield a folder beside `path` to fill; it replaces `path` only if the block ends without an error.

    Args:
        key: all that the content depends on, as JSON. Then the folder has a subfolder `WORK` for notes, which is
            removed at the end, and a block that was killed finds the folder as it left it, if the key is the same.
            None: the folder is empty.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, old = path.with_name(f".{path.name}.partial"), path.with_name(f".{path.name}.old")
    key_file = partial / WORK / "key.json"
    goes_on = key is not None and key_file.is_file() and key_file.read_text(encoding="utf-8") == to_json(key)
    for leftover in (old,) if goes_on else (partial, old):
        shutil.rmtree(leftover, ignore_errors=True)
    try:
        partial.mkdir(exist_ok=True)
        if key is not None and not goes_on:
            write_json(key_file, key)
        yield partial
        shutil.rmtree(partial / WORK, ignore_errors=True)
        for file in sorted(partial.rglob("*")):
            sync(file)
        sync(partial)
        if path.exists():
            path.replace(old)  # never half of it at its place, as removing it there would leave after a kill
        partial.replace(path)
        sync(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (KeyboardInterrupt, KilledError):
        if key is None:
            shutil.rmtree(partial, ignore_errors=True)
        raise
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def sync(path: Path) -> None:
    """Wait until what was written to a file or a folder is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def to_json(value: Any) -> str:
    """The one JSON form of this project: two spaces, the writer's key order, no NaN, a final line end."""
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path`, whole or not at all."""
    text = to_json(value)
    with whole_file(path) as partial:
        partial.write_text(text, encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        InputError: the file is missing or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise InputError(f"{path}: not a JSON file ({error})") from None
    except RecursionError:
        raise InputError(f"{path}: not a JSON file of ours (it is nested too deeply)") from None


def write_sealed_json(path: Path, value: dict[str, Any]) -> None:
    """Write `value` with one more key, `seal`: the hash of all the others, so that a changed byte is noticed."""
    write_json(path, value | {"seal": _seal(value)})


def read_sealed_json(path: Path, remedy: str = "make it again") -> Any:
    """Read what `write_sealed_json` wrote.

    Args:
        remedy: what the message advises.

    Raises:
        InputError: the file is missing, is not JSON, or some byte of it is another.
    """
    sealed = read_json(path)
    if not isinstance(sealed, dict):
        return sealed
    value = {key: part for key, part in sealed.items() if key != "seal"}
    try:
        expected = to_json(value | {"seal": _seal(value)})
    except (ValueError, RecursionError) as error:  # infinity, half a surrogate pair, or lists in lists in lists
        raise InputError(f"{path}: not a JSON file of ours ({error}): {remedy}") from None
    # One of another format has its say before: it may not be sealed at all.
    # Bytes, since reading text would turn another line end into ours.
    if "seal" in sealed and path.read_bytes() != expected.encode():
        raise InputError(f"{path}: corrupted (its content is not what its seal says): {remedy}")
    return sealed


def _seal(value: dict[str, Any]) -> str:
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def sha256_of(path: Path) -> str:
    """The sha256 of a file's bytes, as 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def check_sha256(path: Path, expected: str, remedy: str = "make it again") -> None:
    """Compare a file with the hash that was noted when it was written.

    Args:
        remedy: what the message advises.

    Raises:
        InputError: the file is missing or cannot be read, or its bytes are others.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    try:
        actual = sha256_of(path)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    if actual != expected:
        raise InputError(f"{path}: corrupted (sha256 {actual[:12]}…, expected {expected[:12]}…): {remedy}")
