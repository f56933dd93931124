"""The training stream: every id in its place, whatever the batch and the length."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from recurlm.errors import InputError
from recurlm.evaluation.windows import batches, split_windows
from recurlm.tokens.files import ShardedIds
from recurlm.training.batches import Stream


def test_the_drawing_in_the_docstring_is_what_happens() -> None:
    ids = np.frombuffer(b"abcdefghijklmnopqrstuvwxyz", np.uint8).astype(np.uint16)
    windows = [[bytes(row).decode() for row in window.tolist()] for window in Stream(ids, 3, 3)]
    assert windows == [["abcd", "ijkl", "qrst"], ["defg", "lmno", "tuvw"], ["gh", "op", "wx"]]


@given(st.integers(1, 7), st.integers(1, 9), st.integers(0, 100))
def test_rows_are_the_stream_and_every_id_is_predicted_once(batch: int, length: int, more: int) -> None:
    ids = np.arange(2 * batch + more, dtype=np.uint16)
    windows = list(Stream(ids, batch, length))
    assert len(windows) == len(Stream(ids, batch, length))
    assert {window.dtype for window in windows} == {torch.int64}
    assert all(window.shape[1] == length + 1 for window in windows[:-1])
    rows = torch.cat([windows[0][:, :1], *(window[:, 1:] for window in windows)], dim=1)
    assert rows.flatten().tolist() == list(range(len(ids) // batch * batch))
    for window, following in itertools.pairwise(windows):
        assert torch.equal(window[:, -1], following[:, 0])


def test_an_epoch_can_go_on_in_its_middle() -> None:
    stream = Stream(np.arange(100, dtype=np.uint32), 3, 7)
    assert all(torch.equal(stream[index], window) for index, window in enumerate(stream))
    for outside in (-1, len(stream)):
        with pytest.raises(IndexError):
            stream[outside]


@given(st.integers(1, 5), st.integers(1, 9), st.integers(0, 60), st.integers(1, 3), st.integers(0, 9))
def test_with_a_seed_each_further_epoch_begins_elsewhere_and_goes_round(
    batch: int, length: int, more: int, epoch: int, seed: int
) -> None:
    ids = np.arange(2 * batch + more)
    stream = Stream(ids, batch, length, seed=seed)
    assert all(torch.equal(stream.window(i), window) for i, window in enumerate(Stream(ids, batch, length)))
    windows = [stream.window(i, epoch) for i in range(len(stream))]
    rows = torch.cat([windows[0][:, :1], *(window[:, 1:] for window in windows)], dim=1)
    begin = int(rows[0, 0])
    assert rows.flatten().tolist() == [(begin + i) % len(ids) for i in range(rows.numel())]
    assert torch.equal(Stream(ids, batch, length, seed=seed).window(0, epoch), windows[0])


def test_epochs_begin_in_many_places() -> None:
    ids = np.arange(10_000)
    begins = {int(Stream(ids, 2, 5, seed=seed).window(0, epoch)[0, 0]) for seed in (1, 2) for epoch in (1, 2, 3)}
    assert len(begins) == 6
    assert int(Stream(ids, 2, 5).window(0, 3)[0, 0]) == 0


def test_a_window_of_a_mapped_file_can_be_written_to(tmp_path: Path) -> None:
    np.arange(20, dtype=np.uint16).tofile(tmp_path / "ids.bin")
    ids = np.memmap(tmp_path / "ids.bin", np.uint16, mode="r")
    window = Stream(ids, 2, 4)[0]
    window.zero_()
    assert ids.tolist() == list(range(20))


def test_ids_in_several_files_give_the_windows_of_one(tmp_path: Path) -> None:
    whole = np.arange(5000, dtype=np.uint16)
    (tmp_path / "ids.bin").write_bytes(whole.tobytes())
    mapped = [
        np.memmap(tmp_path / "ids.bin", np.uint16, mode="r", offset=2 * begin, shape=(end - begin,))
        for begin, end in ((0, 700), (700, 701), (701, 5000))
    ]
    shards, stream = Stream(ShardedIds(mapped), 7, 20, seed=1), Stream(whole, 7, 20, seed=1)
    for epoch in range(3):
        for index in range(len(stream)):
            assert torch.equal(shards.window(index, epoch), stream.window(index, epoch))
    windows = split_windows(np.array([0, 600, 1000, 5000]), 50, 10)
    both = (batches(ids, windows, batch_size=8) for ids in (ShardedIds(mapped), whole))
    for one, other in zip(*both, strict=True):
        np.testing.assert_array_equal(one.tokens, other.tokens)


@pytest.mark.parametrize("tokens", [0, 1, 7])
def test_a_split_smaller_than_a_batch_is_refused(tokens: int) -> None:
    with pytest.raises(
        InputError, match=rf"validation split has {tokens} tokens, .* of 4 needs at least 8.*batch_size"
    ):
        Stream(np.zeros(tokens, np.uint16), 4, 16, split="validation")
