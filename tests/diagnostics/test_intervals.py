"""Bootstrap intervals: their coverage, their width, and None where there is no interval."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recurlm.diagnostics.intervals import Bootstrap


def test_an_interval_of_ninety_per_cent_covers_the_true_mean_about_nine_times_in_ten() -> None:
    random = np.random.default_rng(1)
    covered = 0
    for trial in range(300):
        low, high = Bootstrap(samples=300, confidence=0.9, seed=trial).mean(random.normal(5, 2, size=60))
        covered += low < 5 < high
    assert 0.85 <= covered / 300 <= 0.95


def test_its_width_is_that_of_the_standard_error() -> None:
    values = np.random.default_rng(2).normal(size=400)
    low, high = Bootstrap(samples=4000, confidence=0.95, seed=1).mean(values)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / math.sqrt(400), rel=0.1)


@given(st.lists(st.tuples(st.floats(0, 100), st.integers(1, 50)), min_size=2, max_size=20))
def test_a_ratio_lies_between_the_least_and_the_largest_of_the_units(units: list[tuple[float, int]]) -> None:
    amounts, counts = np.array([unit[0] for unit in units]), np.array([unit[1] for unit in units])
    low, high = Bootstrap(samples=50, confidence=0.9, seed=3).ratio(amounts, counts)
    ratios = amounts / counts
    assert ratios.min() - 1e-9 <= low <= high <= ratios.max() + 1e-9


def test_the_same_seed_gives_the_same_interval_and_its_ends_may_be_in_another_unit() -> None:
    draws, values = Bootstrap(samples=100, confidence=0.9, seed=3), np.arange(10.0)
    low, high = draws.mean(values)
    assert draws.mean(values) == (low, high)
    assert draws.ratio(values, np.ones(10), math.exp) == (math.exp(low), math.exp(high))


def test_no_interval_from_one_unit_from_nothing_or_beyond_floats() -> None:
    draws = Bootstrap(samples=100, confidence=0.9, seed=3)
    assert draws.mean(np.array([3.0])) is None
    assert draws.ratio(np.array([1.0, 2.0]), np.zeros(2)) is None
    assert draws.ratio(np.array([1e4, 2e4]), np.ones(2), math.exp) is None
