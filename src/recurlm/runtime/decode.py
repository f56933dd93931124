"""Tokens → text while they come: what is given out is always whole characters, and never taken back."""

from __future__ import annotations

import codecs
from collections.abc import Iterable, Sequence
from typing import Protocol

from tokenizers import Tokenizer


class Decoder(Protocol):
    """Fed a text's tokens in any portions, it returns that text in portions."""

    def feed(self, ids: Sequence[int]) -> str: ...


class ByteDecoder:
    """For byte-level tokens, which may end within a character: its first bytes wait for the others.

    Bytes that are no character become U+FFFD. Those that still wait at the end of the text are not given out.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Sequence[int]) -> str:
        text = self._utf8.decode(bytes_of(self.tokenizer, ids))
        waiting, _ = self._utf8.getstate()
        # Half of a surrogate, which is no character whatever follows: Python waits for its third byte all the same.
        if len(waiting) == 2 and waiting[0] == 0xED and waiting[1] >= 0xA0:
            self._utf8.reset()
            text += "\ufffd\ufffd"
        return text


class JoiningDecoder:
    """For tokens that are whole characters or words; the tokenizer's own decoder says what stands between two of them.

    That depends on the token before, and on no other. A text that ends in a space the tokens don't show ("To be ") has
    the space before the next word already.
    """

    def __init__(self, tokenizer: Tokenizer, last: int, ends_in_space: bool) -> None:
        self.tokenizer = tokenizer
        self.last = last
        self.ends_in_space = ends_in_space

    def feed(self, ids: Sequence[int]) -> str:
        if not ids:
            return ""
        before = self.tokenizer.decode([self.last])
        text: str = self.tokenizer.decode([self.last, *ids])[len(before) :]
        if self.ends_in_space:
            text = text.removeprefix(" ")
        self.last, self.ends_in_space = ids[-1], False
        return text


def bytes_of(tokenizer: Tokenizer, ids: Iterable[int]) -> bytes:
    """The bytes that byte-level tokens stand for; a special token stands for none."""
    tokens = (tokenizer.id_to_token(id) or "" for id in ids)
    return bytes(BYTES[character] for token in tokens if BYTES.keys() >= set(token) for character in token)


def _byte_alphabet() -> dict[str, int]:
    """The visible characters that byte-level tokens write bytes in (Radford et al. 2019)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + place): byte for place, byte in enumerate(hidden)}


BYTES = _byte_alphabet()
