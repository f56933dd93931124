"""A text of any length, in pieces whose tokens are those of the whole."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from recurlm.errors import InputError

BLOCK = 1 << 13  # bytes read at once

# At a word's end, before a space or a line end, no tokenizer of this project looks across. The greedy dot finds the
# last such place.
END_OF_WORD = re.compile(r".*\S(?=[ \n])", re.DOTALL)


def whole_words(texts: Iterable[str]) -> Iterator[str]:
    """The concatenation of `texts`, cut at ends of words only."""
    rest = ""
    for text in texts:
        seen = max(0, len(rest) - 1)
        rest += text
        if match := END_OF_WORD.match(rest, seen):
            yield rest[: match.end()]
            rest = rest[match.end() :]
    if rest:
        yield rest


def read_text(path: Path) -> Iterator[str]:
    """A UTF-8 file, block after block, with its line ends as they are.

    Raises:
        InputError: the file cannot be read, or is not UTF-8.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    position = 0  # of the block's first byte
    try:
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                waiting = len(decoder.getstate()[0])
                yield decoder.decode(block)
                position += len(block)
            waiting = len(decoder.getstate()[0])
            decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 (byte {position - waiting + error.start})") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None
