"""Which version takes an alias: `champion` is what people deploy, `challenger` the next best, of another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Candidate:
    """A registered version, by what decides."""

    version: str
    model: str  # sha256 of the weights before they were rounded
    text: str  # sha256 of the validation split that the metric is of
    bits: float  # (pseudo-)bits per byte on it
    proven: bool

    @classmethod
    def of(cls, version: Any) -> Candidate:
        """From the tags of MLflow's version; one without our tags was registered by a person, and is never beaten."""
        tags = version.tags
        bits = tags.get("validation_bits_per_byte") or tags.get("validation_pseudo_bits_per_byte")
        return cls(
            version=str(version.version),
            model=tags.get("model_sha256", ""),
            text=tags.get("validation_text", ""),
            bits=float("nan") if bits is None else float(bits),
            proven=tags.get("proof") == "passed",
        )

    def beats(self, other: Candidate) -> bool:
        """Whether it has the better metric; numbers of two texts do not compare, and NaN beats nothing."""
        return self.text == other.text and self.bits < other.bits


def moves(new: Candidate, champion: Candidate | None, challenger: Candidate | None) -> dict[str, Candidate]:
    """Alias → the version that it moves to, now that a new one is there.

    An alias moves only to a version whose proof passed and that has the better metric: no tie moves it, so that of
    one model's bundles the first registered, the most exact, stays. A champion that is beaten becomes the challenger.
    """
    if not new.proven or new.bits != new.bits:
        return {}
    if champion is None:
        return {CHAMPION: new}
    if new.beats(champion):
        return {CHAMPION: new} if new.model == champion.model else {CHAMPION: new, CHALLENGER: champion}
    if new.model == champion.model or new.text != champion.text:
        return {}
    if challenger is None or new.beats(challenger):
        return {CHALLENGER: new}
    return {}
