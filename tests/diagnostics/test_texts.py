"""Measures of texts against counting by hand, copied n-grams against comparing all pairs of positions."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundles import TOKENIZERS, VOCABULARY, random_model
from tiny_models import CAUSAL, CLOZE

from recurlm.config import Text
from recurlm.diagnostics import samples, texts
from recurlm.diagnostics.texts import CopyFinder, words

few_words = st.lists(st.sampled_from("abc"), max_size=25)
TRAIN = ["The king, the queen -- and the fool's dog.", "To be, or not to be: that is the question."]
IN_PIECES = [[text[:9], text[9:]] for text in TRAIN]


def longest_by_hand(source: list[str], text: list[str]) -> int:
    return max(
        (
            length
            for i in range(len(text))
            for length in range(1, len(text) - i + 1)
            for start in range(len(source) - length + 1)
            if source[start : start + length] == text[i : i + length]
        ),
        default=0,
    )


@given(st.lists(few_words, max_size=3), st.lists(few_words, min_size=1, max_size=3))
def test_the_longest_copied_ngram_is_the_first_that_comparing_all_positions_finds(
    documents: list[list[str]], compared: list[list[str]]
) -> None:
    copies = CopyFinder(compared, ([" ".join(document)] for document in documents))
    for text in compared:
        length = max((longest_by_hand(document, text) for document in documents), default=0)
        ngrams = [text[start : start + length] for start in range(len(text) - length + 1)]
        assert copies.longest(text) == next(
            ngram
            for ngram in ngrams
            if not ngram or any(ngram == document[i : i + length] for document in documents for i in range(26))
        )
        for word in text:
            assert (word in copies) == any(word in document for document in documents)


def test_no_ngram_crosses_the_end_of_a_document_and_unknown_words_are_never_copied() -> None:
    compared = ["fool's dog to be or", "xyzzy plugh", "", "a BEAR. To be or, not; to be", "queen dogs"]
    split = [words(text) for text in compared]
    copies = CopyFinder(split, ([text] for text in TRAIN))
    assert copies.longest(split[0]) == ["to", "be", "or"]
    assert copies.longest(split[1]) == copies.longest(split[2]) == []
    assert copies.longest(split[3]) == ["to", "be", "or", "not", "to", "be"]
    assert "queen" in copies
    assert "dogs" not in copies


@given(st.text(st.sampled_from("aBΣ .'’-\n。7é"), max_size=40), st.integers(1, 7))
def test_words_are_the_same_wherever_a_text_is_cut(text: str, size: int) -> None:
    pieces = [text[start : start + size] for start in range(0, len(text), size)]
    assert list(texts.words_of(pieces)) == words(text)


def test_memory_stays_flat_however_long_the_source_is() -> None:
    sample = words("the king of 7 lords and 11 ships")

    def peak(pieces: int) -> int:
        tracemalloc.start()
        try:
            source = (
                " ".join(f"the king of {number * 1000 + each} lords" for each in range(1000))
                for number in range(pieces)
            )
            assert CopyFinder([sample], [source]).longest(sample) == sample[:5]
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    assert peak(40) < 2 * peak(4)


def test_a_word_is_letters_with_apostrophes_and_hyphens_inside() -> None:
    assert words("'Tis the Fool's well-known, naïve dog--ha! 7") == (
        ["tis", "the", "fool's", "well-known", "naïve", "dog", "ha", "7"]
    )


def test_distinct_and_repetition_are_counted_over_n_grams() -> None:
    split = [["a", "b", "a", "b"], ["a", "b"]]
    assert texts.distinct(split, 1) == 2 / 6
    assert texts.distinct(split, 2) == 2 / 4
    assert texts.repetition(split, 2) == 1 / 4  # "a b" once more in the first text; in the second it is new
    assert texts.repetition(split, 5) is None
    assert texts.distinct([[]], 1) is None


@pytest.mark.parametrize("name", CAUSAL)
def test_what_is_generated_is_drawn_step_by_step_from_the_same_numbers(name: str) -> None:
    model = random_model(name)
    prompts = np.random.default_rng(1).integers(2, VOCABULARY, (2, 5))
    uniform = np.random.default_rng(2).random((2, 6), np.float32)
    tokens = samples.generate(model, prompts, uniform, 0.7, suppressed=[0, 1])
    for row in range(2):
        state = model.initial_state(1)
        for token in prompts[row]:
            logits, state = model.step(torch.tensor([token]), state)
        for position in range(6):
            p = torch.softmax(logits[0] / 0.7 + torch.tensor([-torch.inf] * 2 + [0.0] * (VOCABULARY - 2)), dim=0)
            expected = int((torch.cumsum(p.double(), 0) <= float(uniform[row, position])).sum())
            assert tokens[row, position] == expected
            logits, state = model.step(torch.tensor([expected]), state)


@pytest.mark.parametrize("name", CLOZE)
def test_what_is_filled_depends_on_nothing_that_was_masked(name: str) -> None:
    model = random_model(name)
    passages = np.random.default_rng(1).integers(2, VOCABULARY, (2, 12))
    masked = np.array([3, 7])
    uniform = np.random.default_rng(2).random((2, 2), np.float32)
    tokens = samples.fill(model, passages, masked, uniform, 1.0, mask=1, suppressed=[0, 1])
    assert (passages[:, masked] > 1).all(), "the passages themselves keep what was masked in them"
    other = passages.copy()
    other[:, masked] = 5
    again = samples.fill(model, other, masked, uniform, 1.0, mask=1, suppressed=[0, 1])
    np.testing.assert_array_equal(again, tokens)
    assert tokens.shape == (2, 2)
    assert (tokens > 1).all()


@pytest.mark.parametrize("kind", ["bpe", "char", "word"])
@pytest.mark.parametrize("name", ["gru", "bilstm"])
def test_samples_of_every_tokenizer_have_texts_and_measures(name: str, kind: str) -> None:
    passages = np.random.default_rng(1).integers(4, VOCABULARY, (3, 20))
    settings = Text(temperatures=(0.5, 2.0), num_samples=3, num_tokens=16, prompt_tokens=4, ngram_size=4, mask_every=5)
    special = {"bos": 0, "mask": 1}
    block = samples.measure(random_model(name), passages, TOKENIZERS[kind], IN_PIECES, special, settings, seed=1)
    again = samples.measure(random_model(name), passages, TOKENIZERS[kind], IN_PIECES, special, settings, seed=1)
    assert block == again
    assert [row["temperature"] for row in block["temperatures"]] == [0.5, 2.0]
    for row in block["temperatures"]:
        assert len(row["texts"]) == 3
        if name == "bilstm":
            assert row["filled_tokens"] == 12
            parts = row["texts"][0]["parts"]
            assert sum(part["filled"] for part in parts) <= 4
        else:
            assert row["texts"][0]["text"]
            assert 0 <= row["distinct_1"] <= 1
    assert block["protocol"] == ("filled" if name == "bilstm" else "continued")
