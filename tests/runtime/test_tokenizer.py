"""Promises of incremental decoding, on any text and any way of cutting its tokens into portions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundles import TOKENIZERS, VOCABULARY, WORDS

from recurlm.runtime.tokenizer import Decoder, Vocabulary
from recurlm.tokens.special import special_ids

VOCABULARIES = {kind: Vocabulary(tokenizer, kind, special_ids(tokenizer)) for kind, tokenizer in TOKENIZERS.items()}
BEFORE = "king or\n"
TEXT = st.text(st.characters(exclude_categories=["Cs"]))
SIZES = st.lists(st.integers(0, 7), min_size=1).filter(any)


def decoder(kind: str) -> Decoder:
    return VOCABULARIES[kind].decoder(BEFORE, TOKENIZERS[kind].encode(BEFORE).ids[-1])


def in_portions(kind: str, ids: list[int], sizes: list[int]) -> list[str]:
    """Feed `ids` in portions of `sizes`, over and over."""
    fed, at, portions = decoder(kind), 0, []
    while at < len(ids):
        size = sizes[len(portions) % len(sizes)]
        portions.append(fed.feed(ids[at : at + size]))
        at += size
    return portions


@given(text=TEXT, sizes=SIZES)
def test_bpe_gives_every_text_back_in_whole_characters(text: str, sizes: list[int]) -> None:
    portions = in_portions("bpe", TOKENIZERS["bpe"].encode(text).ids, sizes)
    assert "".join(portions) == text
    assert "\ufffd" in text or all("\ufffd" not in portion for portion in portions)


@given(ids=st.lists(st.integers(2, VOCABULARY - 1)), sizes=SIZES)
def test_bpe_shows_bytes_that_are_no_character_as_the_tokenizer_does(ids: list[int], sizes: list[int]) -> None:
    text = "".join(in_portions("bpe", [*ids, *TOKENIZERS["bpe"].encode(".").ids], sizes))
    assert text == TOKENIZERS["bpe"].decode(ids) + "."


@pytest.mark.parametrize("kind", ["char", "word"])
@given(ids=st.lists(st.integers(2, VOCABULARY - 1)), sizes=SIZES)
def test_portions_joined_are_the_text_of_all_tokens(kind: str, ids: list[int], sizes: list[int]) -> None:
    whole = TOKENIZERS[kind].decode([*TOKENIZERS[kind].encode(BEFORE).ids, *ids])
    assert BEFORE + "".join(in_portions(kind, ids, sizes)) == whole


@given(words=st.lists(st.sampled_from([*WORDS, "\n"]), min_size=1), sizes=SIZES)
def test_words_stand_apart_and_lines_begin_without_a_space(words: list[str], sizes: list[int]) -> None:
    text = " ".join(words).replace(" \n", "\n").replace("\n ", "\n")
    assert "".join(in_portions("word", TOKENIZERS["word"].encode(text).ids, sizes)) == text


def test_a_special_token_of_bpe_is_no_text() -> None:
    assert decoder("bpe").feed([0, 1]) == ""
    assert VOCABULARIES["bpe"].text([0, *TOKENIZERS["bpe"].encode("king").ids, 1]) == "king"


def test_the_last_bytes_wait_for_the_rest_of_their_character() -> None:
    fed = decoder("bpe")
    *first, last = TOKENIZERS["bpe"].encode("漢").ids
    assert [fed.feed([token]) for token in first] == [""] * len(first)
    assert fed.feed([last]) == "漢"


def test_bytes_that_no_others_can_make_a_character_do_not_wait() -> None:
    """Half of a surrogate: UTF-8 has no such character, so the text shows it at once, as a browser does."""
    fed, tokenizer = decoder("bpe"), TOKENIZERS["bpe"]
    ids = [tokenizer.token_to_id(character) for character in "í¡A"]  # as byte-level tokens write ED A1 41
    assert [fed.feed([token]) for token in ids] == ["", "\ufffd\ufffd", "A"]
