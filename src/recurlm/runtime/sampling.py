"""Sampling settings, checked, and the uniform random numbers of a seed: the graphs take both as inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recurlm.errors import InputError

MAX_TEMPERATURE = 100.0
# Logits divided by less than this leave float32's range, and only the likeliest token could be sampled anyway.
MIN_TEMPERATURE = 1e-6
MIN_PENALTY, MAX_PENALTY = 0.01, 100.0

Rng = np.random.Generator


@dataclass(frozen=True)
class Sampling:
    """How the next token is sampled.

    Temperature 0 is greedy; top_k 0, top_p 1 and min_p 0 keep every token; a repetition penalty of 1 is none.

    Raises:
        InputError: a value is out of its range.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        # Written so that NaN, for which every comparison is false, is refused too.
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise InputError(f"temperature is {self.temperature}: 0 (the likeliest token) to {MAX_TEMPERATURE:.0f}")
        if not self.top_k >= 0:
            raise InputError(f"top_k is {self.top_k}: 1 or more, or 0 to keep every token")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}: above 0, up to 1 (keeps every token)")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p is {self.min_p}: 0 (keeps every token) to 1")
        if not MIN_PENALTY <= self.repetition_penalty <= MAX_PENALTY:
            raise InputError(
                f"repetition_penalty is {self.repetition_penalty}: {MIN_PENALTY} to {MAX_PENALTY:.0f}, "
                "1 for none, more against repetition"
            )

    def feeds(self, batch: int) -> dict[str, Any]:
        """The graphs' inputs for a batch with these settings in each row."""
        temperature = self.temperature if self.temperature >= MIN_TEMPERATURE else 0.0
        return {
            "temperature": np.full(batch, temperature, np.float32),
            "top_k": np.full(batch, min(self.top_k, 2**62), np.int64),
            "top_p": np.full(batch, max(self.top_p, MIN_TEMPERATURE), np.float32),
        }

    @property
    def greedy(self) -> bool:
        return self.temperature < MIN_TEMPERATURE


GREEDY = Sampling(temperature=0.0, top_k=0, top_p=1.0)


def seeded_rng(seed: int | None) -> Rng:
    """A random generator that a seed determines; None takes a seed from the operating system.

    Raises:
        InputError: the seed is negative.
    """
    if seed is None:
        return np.random.Generator(np.random.PCG64())
    if seed < 0:
        raise InputError(f"seed is {seed}: 0 or more")
    return np.random.Generator(np.random.PCG64(seed))


def uniforms(rng: Rng, shape: int | tuple[int, int]) -> Any:
    """Float32 uniform numbers in [0, 1), of 24 random bits each. Two calls give the numbers of one longer call."""
    return rng.random(shape, dtype=np.float32)
