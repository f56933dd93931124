"""How documents are dealt to the splits."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recurlm.corpus import deals
from recurlm.corpus.base import SPLITS, Runs

lengths = st.lists(st.integers(1, 50), min_size=3, max_size=60).map(lambda some: np.array(some, np.int64))
share = st.floats(0.01, 0.49)


def named(runs: Runs) -> list[tuple[str, int]]:
    """The runs with their splits' names."""
    return [(SPLITS[split], end) for split, end in zip(*(part.tolist() for part in runs), strict=True)]


def characters(runs: Runs) -> dict[str, int]:
    """How many characters each split gets; runs must go forward."""
    dealt, start = dict.fromkeys(SPLITS, 0), 0
    for split, end in named(runs):
        assert end >= start
        dealt[split] += end - start
        start = end
    return dealt


@given(lengths=lengths, validation=share, test=share, seed=st.integers(0, 2**63 - 1))
def test_every_document_goes_whole_to_one_split_and_none_stays_empty(
    lengths: np.ndarray, validation: float, test: float, seed: int
) -> None:
    runs = named(deals.by_document_fractions(lengths, validation, test, seed))
    assert [end for _, end in runs] == np.cumsum(lengths).tolist()
    counts = {split: [name for name, _ in runs].count(split) for split in SPLITS}
    assert min(counts.values()) >= 1
    assert abs(counts["validation"] - validation * len(lengths)) <= 1
    assert runs == named(deals.by_document_fractions(lengths, validation, test, seed))


def test_the_seed_draws_the_documents() -> None:
    lengths = np.ones(100, np.int64)
    drawn = {tuple(named(deals.by_document(lengths, 5, 5, seed))) for seed in range(20)}
    assert len(drawn) == 20


@given(lengths=lengths, validation=share, test=share)
def test_by_position_the_shares_are_those_of_characters(lengths: np.ndarray, validation: float, test: float) -> None:
    shares = {"train": 1 - (validation + test), "validation": validation, "test": test}
    dealt = characters(deals.by_position(lengths, shares))
    total = int(lengths.sum())
    assert sum(dealt.values()) == total
    for split in SPLITS:
        assert abs(dealt[split] - shares[split] * total) <= 1.001


@given(lengths=lengths, validation=share, test=share)
def test_in_order_no_document_is_cut_and_no_split_stays_empty(
    lengths: np.ndarray, validation: float, test: float
) -> None:
    shares = {"train": 1 - (validation + test), "validation": validation, "test": test}
    runs = deals.by_order(lengths, shares)
    assert set(runs[1].tolist()) <= set(np.cumsum(lengths).tolist())
    assert sum(characters(runs).values()) == lengths.sum()
    assert min(characters(runs).values()) >= 1


def test_one_document_is_halved_by_position() -> None:
    runs = deals.by_order(np.array([10], np.int64), {"validation": 0.5, "test": 0.5})
    assert named(runs) == [("validation", 5), ("test", 10)]
