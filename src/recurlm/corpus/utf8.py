"""Bytes to text without losing one of them: no line end is translated."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Iterator

from recurlm.errors import InputError


def decode(chunks: Iterable[bytes], name: str, offset: int = 0) -> Iterator[str]:
    """The text of a stream of UTF-8 bytes, piece by piece; `offset` is where in `name` the stream starts.

    Raises:
        InputError: the bytes are not UTF-8; `name` and the offset of the first bad one are named.
    """
    rest = b""
    for chunk in chunks:
        text, rest, offset = _decode_part(rest + chunk, name, offset, final=False)
        if text:
            yield text
    _decode_part(rest, name, offset, final=True)


def _decode_part(data: bytes, name: str, offset: int, final: bool) -> tuple[str, bytes, int]:
    """The text of all whole characters, the bytes of one that is not whole yet, and the offset of those."""
    try:
        text, used = codecs.utf_8_decode(data, "strict", final)
    except UnicodeDecodeError as error:
        raise InputError(
            f"{name}: not UTF-8 at byte offset {offset + error.start} (0x{data[error.start]:02x}): "
            f"convert it first, for instance with iconv -t utf-8"
        ) from None
    return text, data[used:], offset + used
