"""The colours and point shapes of variants on all charts, distinguishable without red and green too."""

from __future__ import annotations

from collections.abc import Sequence

# After Okabe & Ito 2008, "Color universal design"; the dark one of its pair where a line must stand out on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f", "#e69f00", "#56b4e9", "#9467bd")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")


def colours(names: Sequence[str]) -> dict[str, str]:
    """Variant → colour, by the variant's position in params.yaml."""
    return {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(names)}


def shapes(names: Sequence[str]) -> dict[str, str]:
    """Variant → shape of its points."""
    return {name: SHAPES[index % len(SHAPES)] for index, name in enumerate(names)}
