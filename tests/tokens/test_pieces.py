"""A text in pieces has the tokens of the whole text, wherever the pieces end."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, pre_tokenizers

from recurlm.config import Tokenize
from recurlm.tokens.pieces import safe_pieces
from recurlm.tokens.tokenizer import KINDS, learn_tokenizer

LEARNED_FROM = "it's we'll  you've\n\n  x12 !!! ... 日本、日本。\u3000\t\x1c\xa0 'tis '' '\n" * 4
TOKENIZERS = {
    kind: learn_tokenizer([LEARNED_FROM], Tokenize(kind=kind, vocab_size=400, lowercase=False)) for kind in KINDS
}

SIGNS = st.sampled_from(
    [*" \n\t\r\x1c\x1f\x85\xa0\u2028\u3000'!.、。日本ぁー・9²aslvre\u0301é", "'ll", "'re", "  ", "\n\n"]
)
TEXTS = st.lists(st.lists(SIGNS | st.characters(codec="utf-8"), max_size=12).map("".join), max_size=6)


def ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def parts(tokenizer: Tokenizer, text: str) -> list[str]:
    normal = tokenizer.normalizer.normalize_str(text) if tokenizer.normalizer else text
    return [part for part, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal)]


@pytest.mark.parametrize("kind", KINDS)
@given(texts=TEXTS, size=st.integers(1, 8))
@example(texts=["a ", " ", "b", "\n\n", "'", "s", " !", "日", "本", "。"], size=1)
def test_pieces_have_the_tokens_of_the_whole(kind: str, texts: list[str], size: int) -> None:
    tokenizer = TOKENIZERS[kind]
    pieces = list(safe_pieces(texts, KINDS[kind].cut, size))
    assert "".join(pieces) == "".join(texts)
    assert [id for piece in pieces for id in ids(tokenizer, piece)] == ids(tokenizer, "".join(texts))
    # The stronger claim, whatever was learned: tokens are made within these parts.
    assert [part for piece in pieces for part in parts(tokenizer, piece)] == parts(tokenizer, "".join(texts))


@pytest.mark.parametrize(
    ("kind", "text"), [("bpe", "ein Wort\n"), ("bpe", "日本、日本。"), ("word", "one "), ("char", "A")]
)
def test_ordinary_text_gives_pieces_of_bounded_size(kind: str, text: str) -> None:
    pieces = list(safe_pieces([text * 5000, text * 5000], KINDS[kind].cut, size=100))
    assert max(map(len, pieces)) <= 100
    assert len(pieces) < len(text) * 10000 / 80


def test_a_word_longer_than_a_piece_stays_whole() -> None:
    assert list(safe_pieces(["a " + "b" * 50, "b" * 50 + " c"], KINDS["bpe"].cut, 10)) == ["a", " " + "b" * 100, " c"]


def test_the_cutting_rules_and_the_pattern_agree_on_what_is_white_space_and_what_a_letter() -> None:
    characters = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    signs = "".join(c for c in characters if not c.isspace())
    letters = "".join(c for c in characters if re.match(r"[\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fa5]", c))
    assert without(r"\s", signs) == signs
    assert without(r"\p{L}", letters) == ""
    assert without(r"[\s\p{L}\p{N}]", "、。，！？") == "、。，！？"


def without(pattern: str, text: str) -> str:
    """What the tokenizers' own engine of patterns leaves of a text."""
    return "".join(piece for piece, _ in pre_tokenizers.Split(Regex(pattern), "removed").pre_tokenize_str(text))
