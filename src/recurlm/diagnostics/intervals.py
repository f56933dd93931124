"""Percentile bootstrap intervals (Efron 1979)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Num

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
        units = len(amounts)
        if units < 2 or not np.sum(counts):
            return None
        random = np.random.default_rng(self.seed)
        ratios: list[Float[np.ndarray, "draws"]] = []
        left = self.samples
        while left:
            draws = min(left, max(1, MAX_DRAWS // units))
            drawn = random.integers(0, units, (draws, units))
            below = counts[drawn].sum(axis=1)
            # A resample of empty units only has no ratio.
            ratios.append((amounts[drawn].sum(axis=1) / np.where(below, below, 1))[below > 0])
            left -= draws
        outside = (1 - self.confidence) / 2
        low, high = np.quantile(np.concatenate(ratios), [outside, 1 - outside])
        try:
            ends = to(float(low)), to(float(high))
        except OverflowError:
            return None
        return ends if all(map(math.isfinite, ends)) else None

    def mean(self, values: Num[np.ndarray, "units"]) -> Interval | None:
        """The interval of the mean of one value a unit."""
        return self.ratio(values, np.ones(len(values)))
