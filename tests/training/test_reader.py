"""The reader gives each part of the stream once, in an order in which each row goes on where it stopped."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recurlm.config import Train
from recurlm.training.batches import Stream
from recurlm.training.reader import Position, Reader, parts_at

powers = st.sampled_from([1, 2, 4, 8])


@given(st.integers(1, 9), st.integers(2, 12), st.integers(0, 90), powers, powers, st.floats(0, 1))
def test_every_token_of_an_epoch_is_predicted_once_whatever_the_ramp(
    batch: int, length: int, more: int, rows: int, time: int, ramp: float
) -> None:
    stream = Stream(np.arange(2 * batch + more), batch, length)
    reader = Reader(stream, Train(ramp_share=ramp, ramp_batch=rows, ramp_time=time))
    last = np.arange(batch) * stream.length  # each row's next input
    tokens, firsts = 0, 0
    while reader.position.epoch == 0:
        window, here, first = reader.read(tokens / stream.tokens)
        firsts += first
        assert window[:, 0].tolist() == last[here].tolist()
        assert (window.diff(dim=1) == 1).all()
        last[here] = window[:, -1]
        tokens += window[:, 1:].numel()
        reader.advance()
    assert firsts == 1
    assert tokens == stream.tokens
    assert last.tolist() == [(row + 1) * stream.length - 1 for row in range(batch)]


def test_the_parts_halve_until_a_step_reads_a_whole_window() -> None:
    recipe = Train(ramp_share=0.4, ramp_batch=4, ramp_time=2)
    found = [parts_at(share, recipe) for share in (0.0, 0.1, 0.19, 0.2, 0.39, 0.4, 0.9)]
    assert found == [(4, 2), (4, 2), (4, 2), (2, 2), (2, 2), (1, 1), (1, 1)]
    assert parts_at(0.0, Train(ramp_batch=8)) == (1, 1)


def test_without_a_ramp_a_step_reads_a_window() -> None:
    stream = Stream(np.arange(100), 3, 7)
    reader = Reader(stream, Train())
    for window in stream:
        assert np.array_equal(reader.read(0.0)[0], window)
        reader.advance()
    assert reader.position == Position(epoch=1)


@given(st.integers(0, 40))
def test_a_reader_goes_on_from_a_position(steps: int) -> None:
    stream = Stream(np.arange(100), 4, 7, seed=3)
    recipe = Train(ramp_share=1.0, ramp_batch=2, ramp_time=4)
    one, other = Reader(stream, recipe), Reader(stream, recipe)
    for step in range(steps):
        one.read(step / 100)
        one.advance()
    other.position = Position(**asdict(one.position))
    assert np.array_equal(one.read(0.5)[0], other.read(0.5)[0])
