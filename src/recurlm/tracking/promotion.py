"""Which version takes an alias: `champion` is the version to deploy, `challenger` the next best of another model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

CHAMPION, CHALLENGER = "champion", "challenger"


@dataclass(frozen=True)
class Candidate:
    """A registered version with the values that decide its aliases."""

    version: str
    model: str  # sha256 of the unquantized weights
    text: str  # sha256 of the validation split
    bits: float  # (pseudo-)bits per byte on it
    verified: bool

    @classmethod
    def of(cls, version: Any) -> Candidate:
        """From the tags of an MLflow version; without them a person registered it, and it is never beaten."""
        tags = version.tags
        bits = tags.get("validation_bits_per_byte") or tags.get("validation_pseudo_bits_per_byte")
        return cls(
            version=str(version.version),
            model=tags.get("model_sha256", ""),
            text=tags.get("validation_text", ""),
            bits=float("nan") if bits is None else float(bits),
            verified=tags.get("verified") == "true",
        )

    def beats(self, other: Candidate) -> bool:
        """Whether it has fewer bits per byte on the same text; NaN beats nothing."""
        return self.text == other.text and self.bits < other.bits


def moves(new: Candidate, champion: Candidate | None, challenger: Candidate | None) -> dict[str, Candidate]:
    """Alias → the version that it moves to after a new one was registered.

    An alias moves only to a verified version with a better metric. A tie moves nothing, so of one model's bundles the
    first registered, of the highest precision, stays. A champion that is beaten becomes the challenger.
    """
    if not new.verified or new.bits != new.bits:
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
