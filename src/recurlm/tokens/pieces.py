"""A document of any length in pieces that give the same tokens as the whole."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

PIECE = 1 << 14  # characters


def safe_pieces(texts: Iterable[str], cut: str, size: int = PIECE) -> Iterator[str]:
    """Cut the concatenation of `texts` at places that `cut` matches, into pieces of at most `size` characters.

    Only a stretch with no such place in it, such as a word of a million letters, makes a longer piece.
    """
    piece, place = re.compile(rf".{{1,{size}}}{cut}", re.DOTALL), re.compile(cut)
    rest, searched = "", 0  # characters of it that have no such place
    for text in texts:
        rest += text
        end = 0
        while end < len(rest) and (match := piece.match(rest, end) or place.search(rest, max(end + 1, searched))):
            yield rest[end : match.end()]
            end = match.end()
        rest, searched = rest[end:], len(rest) - end
    if rest:
        yield rest
