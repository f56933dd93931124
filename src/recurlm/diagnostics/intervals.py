"""Percentile bootstrap intervals (Efron 1979), by SciPy."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Num
from scipy.stats import DegenerateDataWarning, bootstrap

Interval = tuple[float, float]
MAX_DRAWS = 1 << 22  # drawn units held at once


@dataclass(frozen=True)
class Bootstrap:
    """Resamples units (documents or windows) with replacement."""

    samples: int
    confidence: float
    seed: int

    def ratio(
        self,
        amounts: Num[np.ndarray, "units"],
        counts: Num[np.ndarray, "units"],
        to: Callable[[float], float] = float,
    ) -> Interval | None:
        """The interval of Σ amounts / Σ counts, its ends converted by `to`, an increasing function.

        None with fewer than two units, or where an end is not finite.
        """
        ratios = self._ratios(amounts, counts)
        if ratios is None:
            return None
        outside = (1 - self.confidence) / 2
        low, high = np.nanquantile(ratios, [outside, 1 - outside])
        try:
            ends = to(float(low)), to(float(high))
        except OverflowError:
            return None
        return ends if all(map(math.isfinite, ends)) else None

    def standard_error(self, amounts: Num[np.ndarray, "units"], counts: Num[np.ndarray, "units"]) -> float | None:
        """The standard deviation of Σ amounts / Σ counts over resamples; None with fewer than two units."""
        ratios = self._ratios(amounts, counts)
        return None if ratios is None else float(np.nanstd(ratios))

    def mean(self, values: Num[np.ndarray, "units"]) -> Interval | None:
        """The interval of the mean of one value a unit."""
        return self.ratio(values, np.ones(len(values)))

    def _ratios(self, amounts: Num[np.ndarray, "units"], counts: Num[np.ndarray, "units"]) -> Any:
        """Of each resample; None with fewer than two units."""
        if len(amounts) < 2 or not np.sum(counts):
            return None
        # A resample of empty units only has no ratio: it is left out here; it would spoil SciPy's own interval.
        with np.errstate(invalid="ignore"), warnings.catch_warnings(action="ignore", category=DegenerateDataWarning):
            return bootstrap(
                (amounts, counts),
                _ratio,
                n_resamples=self.samples,
                batch=max(1, MAX_DRAWS // len(amounts)),
                vectorized=True,
                paired=True,
                method="percentile",
                rng=np.random.default_rng(self.seed),
            ).bootstrap_distribution


def _ratio(amounts: Any, counts: Any, axis: int) -> Any:
    return amounts.sum(axis=axis) / counts.sum(axis=axis)
