"""A document of any length in pieces that give the same tokens as the whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PIECE = 1 << 14  # characters


def safe_pieces(texts: Iterable[str], cut: str, size: int = PIECE) -> Iterator[str]:
    """Cut the concatenation of `texts` at places that `cut` matches, into pieces of at most `size` characters.

    Only a stretch with no such place in it, such as a word of a million letters, makes a longer piece.
    """
    piece = re.compile(rf".{{1,{size}}}{cut}|.+?{cut}", re.DOTALL)
    rest = ""
    for text in texts:
        rest += text
        end = 0
        while match := piece.match(rest, end):
            yield match[0]
            end = match.end()
        rest = rest[end:]
    if rest:
        yield rest
