"""Text ↔ ids, with one clear line for text that the vocabulary cannot hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tokenizers import Tokenizer

from recurlm.errors import InputError
from recurlm.runtime.decode import ByteDecoder, Decoder, JoiningDecoder, bytes_of

KINDS = ("bpe", "char", "word")
NAMED = 10  # missing characters or words that a message names


@dataclass(frozen=True)
class Vocabulary:
    """A tokenizer, and what its special tokens mean."""

    tokenizer: Tokenizer
    kind: str
    special: Mapping[str, int | None]

    @property
    def bos(self) -> int:
        """What a text begins with; drawn, it means that the text has ended."""
        return self._special("bos")

    @property
    def mask(self) -> int:
        """What a cloze model reads where a token is hidden."""
        return self._special("mask")

    @property
    def unk(self) -> int | None:
        return self.special["unk"]

    def _special(self, role: str) -> int:
        token = self.special[role]
        if token is None:
            raise InputError(f"the bundle's vocabulary has no {role} token: export it again")
        return token

    def ids(self, text: str, what: str) -> list[int]:
        """The tokens of a text; what the vocabulary lacks becomes the unknown token.

        Raises:
            InputError: the text holds half characters, as the command line gives them for bytes that are not UTF-8.
        """
        try:
            text.encode()
        except UnicodeEncodeError:
            raise InputError(f"{what} is not UTF-8 text") from None
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def known_ids(self, text: str, what: str) -> list[int]:
        """The tokens of a text that the vocabulary must hold whole.

        Raises:
            InputError: it lacks some characters or words, which are named.
        """
        ids = self.ids(text, what)
        if self.unk not in ids:
            return ids
        offsets = self.tokenizer.encode(text, add_special_tokens=False).offsets
        unknown = (text[begin:end] for id, (begin, end) in zip(ids, offsets, strict=True) if id == self.unk)
        # Written in the text as it is in Penn Treebank files, the unknown token is a word like any other.
        lacking = [part for part in dict.fromkeys(unknown) if self.tokenizer.token_to_id(part) != self.unk]
        if lacking:
            named = ", ".join(repr(part) for part in lacking[:NAMED])
            more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
            raise InputError(f"the vocabulary lacks {named}{more}, found in {what}: leave it out or write it otherwise")
        return ids

    def decoder(self, before: str, last: int) -> Decoder:
        """Turns tokens into text that goes on after `before`, whose last token is `last`."""
        if self.kind == "bpe":
            return ByteDecoder(self.tokenizer)
        ends_in_space = before[-1:].isspace() and not self.text([last])[-1:].isspace()
        if last == self.bos and self.kind == "word":
            ends_in_space = True  # no space stands between the start of a text and its first word
        return JoiningDecoder(self.tokenizer, last, ends_in_space)

    def text(self, ids: Iterable[int]) -> str:
        """The text of some tokens by themselves."""
        if self.kind == "bpe":
            return bytes_of(self.tokenizer, ids).decode(errors="replace")
        text: str = self.tokenizer.decode(list(ids))
        return text
