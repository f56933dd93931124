"""What a graph's file asks for before onnxruntime loads it. Plain Python, since the runtime has no onnx package.

An ONNX file is a protocol buffer: fields of a number, a wire type and a value, where a message is a field of bytes.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from pathlib import Path

from recurlm.errors import InputError

# Message → its fields that are messages too, by number (onnx.proto), as far as they lead to tensors.
MESSAGES: dict[str, dict[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "training": {1: "graph", 2: "graph"},
    "function": {7: "node", 11: "attribute"},
    "graph": {1: "node", 5: "tensor", 15: "sparse"},
    "node": {5: "attribute"},
    "attribute": {5: "tensor", 6: "graph", 10: "tensor", 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: "tensor", 2: "tensor"},
    "tensor": {},
}
EXTERNAL_DATA, DATA_LOCATION = 13, 14  # fields of a tensor
MAX_DEPTH = 64
VARINT, BYTES = 0, 2
FIXED = {1: 8, 5: 4}  # wire type → bytes


def check_graph_file(path: Path) -> None:
    """Refuse a graph whose weights lie in another file: its name may lead anywhere, and nothing vouches for its bytes.

    Raises:
        InputError: the file names external data, or is no ONNX file.
    """
    try:
        with path.open("rb") as file:
            external = _has_external_data(memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)))
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
    except (LookupError, ValueError):
        raise InputError(f"{path}: not an ONNX file: download or export it again") from None
    if external:
        raise InputError(f"{path}: its weights lie in another file, which recurlm does not read: export it in one file")


def _has_external_data(file: memoryview) -> bool:
    waiting = [("model", file, 0)]
    while waiting:
        kind, message, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        inner = MESSAGES[kind]
        for number, value in _fields(message):
            if kind == "tensor" and (number == EXTERNAL_DATA or (number == DATA_LOCATION and value != 0)):
                return True
            if number in inner and isinstance(value, memoryview):
                waiting.append((inner[number], value, depth + 1))
    return False


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """The number and value of each field; of fixed-width numbers the bytes."""
    place, end = 0, len(message)
    while place < end:
        tag, place = _varint(message, place)
        wire_type = tag & 7
        value: int | memoryview
        if wire_type == VARINT:
            value, place = _varint(message, place)
        else:
            size, place = _varint(message, place) if wire_type == BYTES else (FIXED[wire_type], place)
            value = message[place : place + size]
            place += size
            if place > end:
                raise ValueError("cut off")
        yield tag >> 3, value


def _varint(message: memoryview, place: int) -> tuple[int, int]:
    """A number in groups of 7 bits, the lowest first, and where it ends."""
    value = shift = 0
    while True:
        byte = message[place]
        place += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError("too long a number")
