"""Promises of filling masks: the typed text stays, each mask becomes one word, from both its sides."""

from __future__ import annotations

import math
import re
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tiny_bundles import TOKENIZERS, WORDS, TinyBundles

from recurlm.errors import InputError
from recurlm.runtime import Filler, filler
from recurlm.runtime.filler import RETRY_TOKENS

KINDS = ["bpe", "char", "word"]
LINE = "to be or ___ to be,\n___ that is"
# Typed parts around one to three masks: with and without spaces, at the text's edges, on lines of their own.
PART = st.lists(st.sampled_from([*WORDS, " ", " ", "\n", "  "]), max_size=4).map("".join)
TYPED = st.builds(
    lambda first, between, last: [first, *between, last], PART, st.lists(PART.filter(bool), max_size=2), PART
)


@pytest.fixture(scope="module")
def fillers(bundles: TinyBundles) -> dict[str, Filler]:
    return {kind: Filler.from_bundle(bundles("bilstm", kind)) for kind in KINDS}


@pytest.mark.parametrize("kind", ["bpe", "char"])
@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(typed=TYPED, temperature=st.sampled_from([0.0, 1.0]), most=st.integers(1, 3), seed=st.integers(0, 5))
def test_the_typed_text_stays_and_every_mask_becomes_a_word(
    fillers: dict[str, Filler], kind: str, typed: list[str], temperature: float, most: int, seed: int
) -> None:
    filled = fillers[kind].fill("___".join(typed), temperature, seed=seed, max_mask_tokens=most)
    assert re.fullmatch(r"[\w'-]+".join(map(re.escape, typed)), filled)


def test_the_word_tokenizer_fills_with_words_it_knows(fillers: dict[str, Filler]) -> None:
    filled = fillers["word"].fill("to be or ___ to be\n___ that is")
    match = re.fullmatch(r"to be or (\S+) to be\n(\S+) that is", filled)
    assert match
    assert all(TOKENIZERS["word"].token_to_id(word) > 3 for word in match.groups())


@pytest.mark.parametrize("text", ["to be or ___ to be", "naïve___", "the sea\n___ is"])
def test_one_token_is_the_likeliest_that_may_stand_there(
    bundles: TinyBundles, fillers: dict[str, Filler], text: str
) -> None:
    filled = fillers["bpe"].fill(text, max_mask_tokens=1)
    before, after = text.split("___")
    spaced = before.endswith(" ")
    left, right = (TOKENIZERS["bpe"].encode(part).ids for part in (before.removesuffix(" "), after))
    tokens = torch.tensor([[0, *left, 1, *right]])
    model = bundles.models["bilstm"]
    log_prob = torch.log_softmax(model(tokens, model.initial_state(1))[0][0, len(left) + 1], -1).tolist()
    texts = [TOKENIZERS["bpe"].decode([token]) for token in range(300)]
    allowed = [
        token
        for token in range(2, 300)
        if texts[token].removeprefix(" ").isalnum() and texts[token].startswith(" ") == spaced
    ]
    best = max(allowed, key=log_prob.__getitem__)
    assert log_prob[best] > -math.log(64)  # the search is sure to find it
    assert filled == before.removesuffix(" ") + texts[best] + after


def test_the_likeliest_words_are_the_same_each_time(fillers: dict[str, Filler]) -> None:
    assert len({fillers["bpe"].fill(LINE, seed=seed) for seed in (None, 1, 2)}) == 1


def test_drawn_words_follow_the_seed(fillers: dict[str, Filler]) -> None:
    drawn = [fillers["bpe"].fill(LINE, temperature=1.0, seed=seed) for seed in (1, 1, 2, 3, 4)]
    assert drawn[0] == drawn[1]
    assert len(set(drawn)) > 1


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_many_samples_of_a_long_text_are_read_in_parts(
    fillers: dict[str, Filler], monkeypatch: pytest.MonkeyPatch, temperature: float
) -> None:
    """All at once they would take gigabytes; the words are the same."""
    bpe, run, read = fillers["bpe"], fillers["bpe"].session.run, []

    def counted(outputs: Any, feeds: Any) -> Any:
        read.append(feeds["tokens"].size)
        return run(outputs, feeds)

    monkeypatch.setattr(bpe.session, "run", counted)
    text = "the sea " * 100 + "___ " * 3

    def fill() -> str:
        return bpe.fill(text, temperature, seed=1, max_mask_tokens=2)

    in_parts = fill()
    assert RETRY_TOKENS // 2 < max(read) <= RETRY_TOKENS
    monkeypatch.setattr(filler, "RETRY_TOKENS", 10**9)
    assert fill() == in_parts
    assert max(read) > RETRY_TOKENS


def test_a_longer_line_is_one_mask(fillers: dict[str, Filler]) -> None:
    assert fillers["bpe"].fill("to _____ or") == fillers["bpe"].fill("to ___ or")
    assert "__" in fillers["char"].fill("to __ be ___ or")


@pytest.mark.parametrize(
    ("kind", "text", "setting", "message"),
    [
        ("bpe", "to be or not", {}, "no mask: write ___"),
        ("bpe", "", {}, "no mask: write ___"),
        ("bpe", LINE, {"max_mask_tokens": 0}, "max_mask_tokens is 0: 1 to 12"),
        ("bpe", LINE, {"max_mask_tokens": 13}, "max_mask_tokens is 13: 1 to 12"),
        ("word", LINE, {"max_mask_tokens": 10**19}, f"max_mask_tokens is {10**19}: 1 to 12"),
        ("bpe", LINE, {"temperature": -1}, "temperature is -1"),
        ("bpe", "to be " * 2000 + "___", {}, "at most 2048 are read at once"),
        ("bpe", "\udce9 ___", {}, "the text is not UTF-8"),
        ("char", "漢 ___", {}, "lacks '漢', found in the text"),
        ("word", "tea or ___", {}, "lacks 'tea', found in the text"),
    ],
)
def test_what_cannot_be_filled_is_refused(
    fillers: dict[str, Filler], kind: str, text: str, setting: dict[str, float], message: str
) -> None:
    with pytest.raises(InputError) as caught:
        fillers[kind].fill(text, **setting)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_model_that_generates_is_refused(bundles: TinyBundles) -> None:
    with pytest.raises(InputError, match="'lstm' reads from the left only and cannot fill masks"):
        Filler.from_bundle(bundles("lstm"))
