"""Every text token of a split is scored exactly once, in a context that the settings promise."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recurlm.evaluation.windows import batches, split_windows

lengths_of_documents = st.lists(st.integers(0, 40), max_size=12)
sizes = st.integers(1, 50)
contexts = st.integers(0, 50)
either = st.booleans()


def starts_of(lengths: list[int]) -> np.ndarray:
    """Where documents of so many text tokens begin, each with its `<bos>`, and where the last one ends."""
    return np.concatenate([[0], np.cumsum(np.array(lengths, dtype=np.int64) + 1)]).astype(np.int64)


def text_positions(starts: np.ndarray) -> set[int]:
    return set(range(starts[-1])) - set(starts[:-1].tolist())


@given(lengths_of_documents, sizes, contexts, either)
@settings(deadline=None)
@example([], 1, 0, False)
@example([0, 0], 1, 0, True)
def test_every_text_token_stands_in_exactly_one_window(
    lengths: list[int], window: int, context: int, both_sides: bool
) -> None:
    starts = starts_of(lengths)
    windows = split_windows(starts, window, context, both_sides)
    scored = Counter(
        position for first, end in zip(windows.first, windows.end, strict=True) for position in range(first, end)
    )
    assert scored == Counter(text_positions(starts))
    assert windows.tokens == sum(lengths)


@given(lengths_of_documents.filter(any), sizes, st.integers(1, 200))
@settings(deadline=None)
def test_a_sample_is_spread_evenly_over_the_windows(lengths: list[int], window: int, tokens: int) -> None:
    windows = split_windows(starts_of(lengths), window, 2)
    sample = windows.sample(tokens)
    number = {first: place for place, first in enumerate(windows.first.tolist())}
    places = np.array([number[first] for first in sample.first.tolist()])
    assert np.array_equal(sample.end, windows.end[places])
    assert np.array_equal(sample.begin, windows.begin[places])
    gaps = np.diff(places)
    assert len(sample) == 1 or 1 <= gaps.min() <= gaps.max() <= gaps.min() + 1
    assert places[0] <= len(windows) - 1 - places[-1] + 1 <= places[0] + 2  # as much before it as after it
    if tokens >= windows.tokens:
        assert len(sample) == len(windows)
    elif window == 1:
        assert sample.tokens == tokens


@given(lengths_of_documents, sizes, contexts, either)
@settings(deadline=None)
def test_a_window_reads_its_own_document_alone_and_the_promised_context(
    lengths: list[int], window: int, context: int, both_sides: bool
) -> None:
    starts = starts_of(lengths)
    windows = split_windows(starts, window, context, both_sides)
    for begin, first, end, stop in zip(windows.begin, windows.first, windows.end, windows.stop, strict=True):
        document = np.searchsorted(starts, first, side="right") - 1
        head, tail = starts[document], starts[document + 1]
        assert 0 < end - first <= window
        assert begin == max(head, first - max(context, 1))  # something must be read before the first prediction
        assert stop == (min(tail, end + context) if both_sides else end)


@given(lengths_of_documents, sizes, contexts, either, st.integers(1, 20))
@settings(deadline=None)
def test_batches_of_any_size_score_every_text_token_once_after_its_neighbour(
    lengths: list[int], window: int, context: int, both_sides: bool, batch_size: int
) -> None:
    starts = starts_of(lengths)
    ids = np.arange(starts[-1], dtype=np.uint16)  # each token is its own position
    scored: Counter[int] = Counter()
    for batch in batches(ids, split_windows(starts, window, context, both_sides), batch_size):
        assert len(batch.tokens) <= batch_size
        assert batch.tokens.dtype == np.int64
        targets = batch.tokens[:, 1:][batch.scored]
        assert (batch.tokens[:, :-1][batch.scored] == targets - 1).all()
        scored.update(targets.tolist())
    assert scored == Counter(text_positions(starts))


@given(lengths_of_documents, sizes, contexts, either, st.integers(1, 20))
@settings(deadline=None)
def test_padding_stands_at_the_right_is_never_scored_and_never_reaches_a_reader_from_the_right(
    lengths: list[int], window: int, context: int, both_sides: bool, batch_size: int
) -> None:
    starts = starts_of(lengths)
    ids = np.arange(starts[-1], dtype=np.uint32)
    for batch in batches(ids, split_windows(starts, window, context, both_sides), batch_size):
        width = batch.tokens.shape[1]
        assert batch.length.max() == width
        for tokens, length, scored in zip(batch.tokens, batch.length, batch.scored, strict=True):
            assert (np.diff(tokens[:length].astype(np.int64)) == 1).all()
            assert not scored[length - 1 :].any()
            if both_sides:
                assert length == width


def test_windows_of_similar_length_share_a_batch() -> None:
    starts = starts_of([5, 100, 5, 100])
    shapes = [b.tokens.shape for b in batches(np.arange(starts[-1]), split_windows(starts, 200, 10), batch_size=2)]
    assert shapes == [(2, 101), (2, 6)]


def test_ids_are_read_from_a_mapped_file(tmp_path: Path) -> None:
    np.arange(50, dtype="<u2").tofile(tmp_path / "ids.bin")
    ids = np.memmap(tmp_path / "ids.bin", dtype="<u2", mode="r")
    (batch,) = batches(ids, split_windows(np.array([0, 50]), 20, 5), batch_size=8)
    assert sorted(batch.tokens[:, 1:][batch.scored].tolist()) == list(range(1, 50))


@pytest.mark.parametrize("both_sides", [False, True])
def test_the_drawing_in_the_docstring_is_true(both_sides: bool) -> None:
    text = "abcdefghijklmnopqr"
    windows = split_windows(np.array([0, len(text) + 1]), window_tokens=8, context_tokens=3, both_sides=both_sides)
    read = "s" + text
    pieces = [
        (read[begin:first], read[first:end], read[end:stop])
        for begin, first, end, stop in zip(windows.begin, windows.first, windows.end, windows.stop, strict=True)
    ]
    after = ["ijk", "qr", ""] if both_sides else ["", "", ""]
    assert pieces == [("s", "abcdefgh", after[0]), ("fgh", "ijklmnop", after[1]), ("nop", "qr", after[2])]
