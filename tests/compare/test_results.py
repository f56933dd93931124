"""What a comparison says of its scores: intervals over text and over seeds, and when better and worse are said."""

from __future__ import annotations

import statistics

import numpy as np
import pytest
import scipy.stats

from recurlm.compare import results, settings

SCORE = settings.Score(min_documents=30, resamples=999, confidence=0.95, seed=1)
TOKENS = np.full(60, 1000)
UNITS = np.random.default_rng(1).normal(4000, 300, 60)


def noisy(shift: float, spread: float = 0.0, draw: int = 2) -> np.ndarray:
    """Three seeds' nats: those of UNITS, shifted by nats a token, and by a spread from seed to seed."""
    noise = np.random.default_rng(draw).normal(0, 20, (3, 60))
    return UNITS + noise + 1000 * (shift + spread * np.array([[-1.0], [0.0], [1.0]]))


@pytest.mark.parametrize(
    ("shift", "spread", "verdict"),
    [
        (0.05, 0.0, "worse"),
        (-0.05, 0.0, "better"),
        (0.0, 0.0, "not shown"),
        (0.05, 0.1, "not shown"),
        (-0.05, 0.1, "not shown"),
    ],
)
def test_better_is_said_only_where_the_interval_of_text_and_seeds_leaves_0_out(
    shift: float, spread: float, verdict: str
) -> None:
    found = results.against(noisy(shift, spread), noisy(0.0, draw=3), TOKENS, SCORE)
    assert found is not None
    assert found["verdict"] == verdict
    assert found["interval"][0] < shift < found["interval"][1]


def test_a_difference_unit_by_unit_is_sharper_than_that_of_two_intervals() -> None:
    low, high = results.interval(noisy(0.05).mean(axis=0), TOKENS, SCORE) or [0, 0]
    paired = results.against(noisy(0.05), UNITS + np.zeros((3, 1)), TOKENS, SCORE)
    assert paired
    assert paired["interval"][1] - paired["interval"][0] < (high - low) / 10


def test_a_loss_at_equal_seconds_lies_on_the_curves_and_is_none_before_them() -> None:
    curves = [[(100.0, 5.0), (200.0, 4.0)], [(100.0, 6.0), (200.0, 5.0)]]
    assert results.at(curves, 150) == pytest.approx(5.0)
    assert results.at(curves, 300) == pytest.approx(4.5)
    assert results.at(curves, 50) is None


@pytest.mark.parametrize(("units", "verdict"), [(9, "not shown"), (10, "better")])
def test_a_few_units_show_nothing(units: int, verdict: str) -> None:
    """However far the seeds lie apart."""
    found = results.against(noisy(-0.5)[:, :units], noisy(0.0, draw=3)[:, :units], TOKENS[:units], SCORE)
    assert found
    assert found["verdict"] == verdict
    assert (found["interval"] is None) == (units < 10)


def test_one_seed_shows_nothing() -> None:
    found = results.against(noisy(-0.05)[:1], UNITS[None], TOKENS, SCORE)
    assert found
    assert (found["interval"], found["verdict"]) == (None, "not shown")


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_of_equals_one_is_called_better_or_worse_no_more_often_than_it_says(seeds: int) -> None:
    """Two variants that differ by their seeds and by the text alone, 2,000 times."""
    draw, of_text, said = np.random.default_rng(seeds), 0.003, 0
    for _ in range(2000):
        sides = draw.normal(0, 0.012, (2, seeds))
        mean = float(sides[0].mean() - sides[1].mean() + draw.normal(0, of_text))
        ends = results.difference_interval(mean, of_text, 110, sides.tolist(), 0.95)
        said += results.verdict(ends) != "not shown"
    assert said / 2000 < 0.07


def test_an_interval_of_seeds_alone_is_welch_s() -> None:
    sides = [[1.0, 1.2, 1.1], [1.5, 1.4, 1.8, 1.6]]
    low, high = results.difference_interval(statistics.fmean(sides[0]) - statistics.fmean(sides[1]), 0, 110, sides, 0.9)
    welch = scipy.stats.ttest_ind(*sides, equal_var=False).confidence_interval(0.9)
    assert (low, high) == pytest.approx(tuple(welch))
