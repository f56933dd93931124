"""Text → token ids → text, in one piece or as a stream.

Vocabulary          a tokenizer, its special tokens, and clear errors for text that it cannot encode
Decoder             token ids → text while they arrive: always whole characters, never taken back
split_at_words      a text of any length in pieces whose tokens are those of the whole text
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tokenizers import Tokenizer, decoders, models

from recurlm.errors import InputError

# The model and the decoder of each kind of tokenizer, in tokenizer.json.
KINDS = {
    "bpe": (models.BPE, decoders.ByteLevel),
    "char": (models.WordLevel, decoders.Fuse),
    "word": (models.WordLevel, decoders.Sequence),
}
# The steps before the model, as tokenizer.json says them: of each kind what recurlm.tokens.tokenizer writes.
RESERVED = [{"type": "Replace", "pattern": {"String": token}, "content": "<unk>"} for token in ("<bos>", "<mask>")]
WORDS = [*RESERVED, {"type": "Replace", "pattern": {"String": "\n"}, "content": " <eol> "}]
NORMALIZERS: dict[str, list[Any]] = {
    "bpe": [None],
    "char": [None],
    "word": [
        {"type": "Sequence", "normalizers": WORDS},
        {"type": "Sequence", "normalizers": [{"type": "Lowercase"}, *WORDS]},
    ],
}
PRE_TOKENIZERS: dict[str, dict[str, Any]] = {
    "bpe": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
    "char": {"type": "Split", "pattern": {"Regex": r"[\s\S]"}, "behavior": "Isolated", "invert": False},
    "word": {"type": "Split", "pattern": {"Regex": r"[\s\x1c-\x1f]+"}, "behavior": "Removed", "invert": False},
}
SPECIAL = {"bos": "<bos>", "mask": "<mask>", "unk": "<unk>", "eol": "<eol>"}  # role → token
MAX_TOKENIZER_BYTES = 64 << 20
NAMED = 10  # missing characters or words that a message names
LONG_TEXT = 1 << 14  # characters
BLOCK = 1 << 13  # bytes of a file read at once

# No tokenizer of this project merges across the end of a word before a space or a line end. The greedy dot finds the
# last such place.
END_OF_WORD = re.compile(r".*\S(?=[ \n])", re.DOTALL)


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer and the ids of its special tokens."""

    tokenizer: Tokenizer
    kind: str
    special: Mapping[str, int | None]

    @classmethod
    def load(cls, path: Path, kind: str, special: Mapping[str, int | None], size: int) -> Vocabulary:
        """Read a tokenizer.json, and check that it is what a bundle's description says.

        Raises:
            InputError: it is no tokenizer, of another kind or size, or has other special tokens.
        """
        try:
            tokenizer = Tokenizer.from_file(str(path))
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # tokenizers raises nothing more specific, and a panic of Rust is no Exception
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: not a tokenizer ({reason}): download or export the bundle again") from None
        if wrong := _contradiction(tokenizer, kind, special, size):
            raise InputError(f"{path}: {wrong}: download or export the bundle again")
        return cls(tokenizer, kind, special)

    @property
    def size(self) -> int:
        """The number of tokens."""
        return int(self.tokenizer.get_vocab_size())

    @property
    def bos(self) -> int:
        """The id of `<bos>`: every text begins with it, and a model that generates it ends the text."""
        return self._special("bos")

    @property
    def mask(self) -> int:
        """The id of `<mask>`: a cloze model reads it in place of a masked token."""
        return self._special("mask")

    @property
    def unk(self) -> int | None:
        """The id of `<unk>`, or None where the tokenizer encodes every text."""
        return self.special["unk"]

    def _special(self, role: str) -> int:
        token = self.special[role]
        if token is None:
            raise InputError(f"the bundle's vocabulary has no {role} token: export it again")
        return token

    def ids(self, text: str, what: str) -> list[int]:
        """The token ids of a text; what the vocabulary lacks becomes `<unk>`.

        Raises:
            InputError: the text has lone surrogates: Python's form of command line bytes that are not UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{what} is not UTF-8 text") from None
        if len(text) > LONG_TEXT:
            # Lets other threads run meanwhile, as `encode` does not.
            (encoding,) = self.tokenizer.encode_batch([text], add_special_tokens=False)
        else:
            encoding = self.tokenizer.encode(text, add_special_tokens=False)
        ids: list[int] = encoding.ids
        return ids

    def known_ids(self, text: str, what: str) -> list[int]:
        """The token ids of a text without `<unk>`.

        Raises:
            InputError: the vocabulary lacks some characters or words, which the message names.
        """
        ids = self.ids(text, what)
        if self.unk not in ids:
            return ids
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        unknown = (text[begin:end] for id, (begin, end) in zip(ids, offsets, strict=True) if id == self.unk)
        # A text may spell out `<unk>`, as Penn Treebank files do: then it is a word like any other.
        lacking = [part for part in dict.fromkeys(unknown) if self.tokenizer.token_to_id(part) != self.unk]
        if lacking:
            named = ", ".join(repr(part) for part in lacking[:NAMED])
            more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
            raise InputError(f"the vocabulary lacks {named}{more}, found in {what}: leave it out or write it otherwise")
        return ids

    def decoder(self, before: str, last: int) -> Decoder:
        """A stream decoder for tokens that follow the text `before`, whose last token is `last`."""
        if self.kind == "bpe":
            return ByteLevelDecoder(self.token_bytes)
        ends_in_space = before[-1:].isspace() and not self.text([last])[-1:].isspace()
        if last == self.bos and self.kind == "word":
            ends_in_space = True  # no space stands between `<bos>` and the first word
        return JoiningDecoder(self.tokenizer, last, ends_in_space)

    def text(self, ids: Iterable[int]) -> str:
        """Decode tokens without their context."""
        if self.kind == "bpe":
            return self.token_bytes(ids).decode(errors="replace")
        text: str = self.tokenizer.decode(list(ids))
        return text

    def token_bytes(self, ids: Iterable[int]) -> bytes:
        """The bytes of byte-level BPE tokens; a special token has none."""
        tokens = (self.tokenizer.id_to_token(id) or "" for id in ids if id not in self.special.values())
        return bytes(BYTES[character] for token in tokens for character in token)


class Decoder(Protocol):
    """A stream decoder: the texts that it returns, joined, are the text of all tokens that it was fed."""

    def feed(self, ids: Sequence[int]) -> str: ...


class ByteLevelDecoder:
    """Decodes byte-level BPE tokens; an incomplete UTF-8 character is held back until its last byte arrives.

    Invalid bytes become U+FFFD. An incomplete character at the end of the text is dropped.
    """

    def __init__(self, token_bytes: Callable[[Sequence[int]], bytes]) -> None:
        self.token_bytes = token_bytes
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, ids: Sequence[int]) -> str:
        text = self._utf8.decode(self.token_bytes(ids))
        waiting, _ = self._utf8.getstate()
        # Two bytes of a surrogate, which UTF-8 forbids: Python waits for the third byte all the same.
        if len(waiting) == 2 and waiting[0] == 0xED and waiting[1] >= 0xA0:
            self._utf8.reset()
            text += "\ufffd\ufffd"
        return text


class JoiningDecoder:
    """Decodes tokens that are whole characters or words; the tokenizer's own decoder decides about spaces.

    The space before a token depends on the previous token only. A text that ends in a space that its tokens don't show
    ("To be ") has the space before the next word already.
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


def _contradiction(tokenizer: Tokenizer, kind: str, special: Mapping[str, int | None], size: int) -> str | None:
    """What of a tokenizer is otherwise than described; None where it is as described."""
    model, decoder = KINDS[kind]
    if not isinstance(tokenizer.model, model) or not isinstance(tokenizer.decoder, decoder):
        return f"not a tokenizer of the kind '{kind}', as bundle.json says"
    if step := _other_step(json.loads(tokenizer.to_str()), kind):
        return f"its {step} is not that of the kind '{kind}'"
    tokens: dict[str, int] = tokenizer.get_vocab()
    if sorted(tokens.values()) != list(range(size)):
        return f"its {len(tokens)} tokens are not the {size} that bundle.json says"
    if any(tokens.get(SPECIAL[role]) != id for role, id in special.items()):
        return "its special tokens are not those that bundle.json says"
    if kind == "bpe":
        names = set(SPECIAL.values())
        unknown = {character for token in tokens.keys() - names for character in token} - BYTES.keys()
        return f"its tokens hold {sorted(unknown)[0]!r}, which stands for no byte" if unknown else None
    unk: str | None = getattr(tokenizer.model, "unk_token", None)
    return None if unk == SPECIAL["unk"] and special["unk"] is not None else "it has no <unk>"


def _other_step(parts: Mapping[str, Any], kind: str) -> str | None:
    """The first step of a tokenizer that this project does not write: it would read another text than was typed."""
    usual: dict[str, list[Any]] = {
        "truncation": [None],
        "padding": [None],
        "added_tokens": [[]],
        "normalizer": NORMALIZERS[kind],
        "pre_tokenizer": [PRE_TOKENIZERS[kind]],
        "post_processor": [None],
    }
    return next((name for name, known in usual.items() if parts[name] not in known), None)


def _byte_alphabet() -> dict[str, int]:
    """GPT-2's printable character of each byte (Radford et al. 2019)."""
    visible = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in visible]
    return {chr(byte): byte for byte in visible} | {chr(256 + index): byte for index, byte in enumerate(hidden)}


BYTES = _byte_alphabet()


def split_at_words(texts: Iterable[str]) -> Iterator[str]:
    """Yield the concatenation of `texts` in pieces that end at ends of words, so that no token is cut."""
    rest = ""
    for text in texts:
        seen = max(0, len(rest) - 1)
        rest += text
        if match := END_OF_WORD.match(rest, seen):
            yield rest[: match.end()]
            rest = rest[match.end() :]
    if rest:
        yield rest


def read_blocks(path: Path) -> Iterator[str]:
    """Yield the text of a UTF-8 file block by block; line ends stay as they are.

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
