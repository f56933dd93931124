"""How a variant looks on all pictures: one colour and one mark each, told apart without red and green too."""

from __future__ import annotations

from collections.abc import Sequence

# After Okabe & Ito 2008, "Color universal design"; the dark one of its pair where a line must stand out on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f", "#e69f00", "#56b4e9", "#9467bd")
MARKS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")


def colours(names: Sequence[str]) -> dict[str, str]:
    """Variant → its colour, which its place in params.yaml decides."""
    return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(names)}


def marks(names: Sequence[str]) -> dict[str, str]:
    """Variant → the shape of its points."""
    return {name: MARKS[place % len(MARKS)] for place, name in enumerate(names)}
