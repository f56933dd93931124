"""Promises of stop sequences."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from recurlm.serving.text_stream import StopSearch

TEXT = st.text("ab\n", max_size=30)


@given(st.lists(TEXT), st.lists(st.text("ab\n", min_size=1, max_size=5), max_size=4))
def test_a_text_ends_before_the_stop_sequence_that_is_complete_first_in_whatever_pieces_it_comes(
    pieces: list[str], stops: list[str]
) -> None:
    whole = "".join(pieces)
    ends = [(end, end - len(stop)) for end in range(len(whole) + 1) for stop in stops if whole[:end].endswith(stop)]
    expected = whole[: min(ends)[1]] if ends else whole
    search, given_out, stopped = StopSearch(stops), "", False
    for piece in pieces:
        text, stopped = search.feed(piece)
        given_out += text
        assert expected.startswith(given_out)
        if stopped:
            break
    assert stopped == bool(ends)
    assert given_out + search.held == expected
