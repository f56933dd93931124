"""Promises of stop sequences."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurlm.errors import InputError
from recurlm.runtime.generator import MAX_STOP_LENGTH, MAX_STOPS, StopSearch, validate_stops

TEXT = st.text("ab\n", max_size=30)


@given(st.lists(TEXT), st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4))
def test_a_text_ends_before_the_stop_sequence_that_is_complete_first_in_whatever_pieces_it_comes(
    pieces: list[str], stops: list[str]
) -> None:
    whole = "".join(pieces)
    ends = [(end, end - len(stop)) for end in range(len(whole) + 1) for stop in stops if whole[:end].endswith(stop)]
    expected = whole[: min(ends)[1]] if ends else whole
    search, emitted = StopSearch(stops), ""
    for piece in pieces:
        emitted += search.feed(piece)
        assert expected.startswith(emitted)
        # No more is held back than may still become a stop sequence.
        assert search.held == "" or any(stop.startswith(search.held) for stop in stops)
    assert search.found == bool(ends)
    assert emitted + search.held == expected


@pytest.mark.parametrize("text", ["a" * 200_000, ("a" * (MAX_STOP_LENGTH - 2) + "b") * 200])
def test_the_search_is_linear_at_the_longest_stop_sequences(text: str) -> None:
    """By the naive search each character costs up to the length of the stop sequence, 1024 times as much."""
    stops = validate_stops(["a" * (MAX_STOP_LENGTH - 1) + last for last in "bcde"])
    search = StopSearch(stops[1:] if "b" in text else stops)
    start = time.process_time()
    emitted = "".join(search.feed(text[begin : begin + 3]) for begin in range(0, len(text), 3))
    assert emitted + search.held == text
    assert time.process_time() - start < 10  # about 0.4 s on this kind of machine


@pytest.mark.parametrize(("stops", "expected"), [(None, []), ("a", ["a"]), (("a", "b"), ["a", "b"]), ([], [])])
def test_stop_sequences_are_none_one_or_several(stops: Any, expected: list[str]) -> None:
    assert validate_stops(stops) == expected


@pytest.mark.parametrize(
    ("stops", "message"),
    [
        (["a"] * (MAX_STOPS + 1), "stop: 5 sequences, at most 4"),
        ("", "stop: a sequence of 0 characters: 1 to 1024"),
        (["a", "b" * (MAX_STOP_LENGTH + 1)], "stop: a sequence of 1025 characters: 1 to 1024"),
        (["a", 5], "stop: 5 is not a string"),
        (5, "stop: 5 is not a string or a list of strings"),
        ("\udcff", "stop: a sequence is not UTF-8 text"),
    ],
)
def test_what_is_no_stop_sequence_is_refused(stops: Any, message: str) -> None:
    with pytest.raises(InputError, match=f"^{message}$"):
        validate_stops(stops)
