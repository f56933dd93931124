"""How tokens are drawn: the settings that a person gives, checked, and the uniform numbers that a seed stands for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from recurlm.errors import InputError

LARGEST_TEMPERATURE = 100.0
# Logits over less than this leave float32's range, and the likeliest token is all that could be drawn anyway.
SMALLEST = 1e-6
SMALLEST_PENALTY, LARGEST_PENALTY = 0.01, 100.0

Numbers = np.random.Generator


@dataclass(frozen=True)
class Sampling:
    """Temperature 0 takes the likeliest token; top_k 0, top_p 1 and min_p 0 keep every token; a repetition penalty of 1
    lets the text repeat itself.

    Raises:
        InputError: a value is out of its range.
    """

    temperature: float
    top_k: int
    top_p: float
    min_p: float = 0.0
    repetition_penalty: float = 1.0

    def __post_init__(self) -> None:
        # Written so that NaN, which is in no order with anything, is refused as well.
        if not 0 <= self.temperature <= LARGEST_TEMPERATURE:
            raise InputError(f"temperature is {self.temperature}: 0 (the likeliest token) to {LARGEST_TEMPERATURE:.0f}")
        if not self.top_k >= 0:
            raise InputError(f"top_k is {self.top_k}: 1 or more, or 0 to keep every token")
        if not 0 < self.top_p <= 1:
            raise InputError(f"top_p is {self.top_p}: above 0, up to 1 (keeps every token)")
        if not 0 <= self.min_p <= 1:
            raise InputError(f"min_p is {self.min_p}: 0 (keeps every token) to 1")
        if not SMALLEST_PENALTY <= self.repetition_penalty <= LARGEST_PENALTY:
            raise InputError(
                f"repetition_penalty is {self.repetition_penalty}: {SMALLEST_PENALTY} to {LARGEST_PENALTY:.0f}, "
                "1 for none, more against repetition"
            )

    def feeds(self, batch: int) -> dict[str, Any]:
        """The settings as the graphs take them, the same for each row."""
        temperature = self.temperature if self.temperature >= SMALLEST else 0.0
        return {
            "temperature": np.full(batch, temperature, np.float32),
            "top_k": np.full(batch, min(self.top_k, 2**62), np.int64),
            "top_p": np.full(batch, max(self.top_p, SMALLEST), np.float32),
        }


def numbers(seed: int | None) -> Numbers:
    """The stream of uniform numbers of a seed.

    Raises:
        InputError: the seed is negative.
    """
    if seed is None:
        return np.random.Generator(np.random.PCG64())
    if seed < 0:
        raise InputError(f"seed is {seed}: 0 or more")
    return np.random.Generator(np.random.PCG64(seed))


def uniform(stream: Numbers, shape: int | tuple[int, int]) -> Any:
    """Float32 numbers in [0, 1), of 24 random bits each: none is rounded up to 1. Two calls give what one would."""
    return stream.random(shape, dtype=np.float32)
