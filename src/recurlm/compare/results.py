"""What the comparison says: means and spreads over seeds, bootstrap intervals, and differences from the reference."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.stats import t as student

from recurlm.compare.settings import Compare, Score
from recurlm.diagnostics.intervals import Bootstrap, Interval
from recurlm.errors import InputError
from recurlm.storage import read_json

FEWEST_UNITS = 10  # drawn again from fewer, a bootstrap knows too little of how units differ
Curve = list[tuple[float, float]]  # (tokens, validation nats a token)


def collect(compare: Compare, speeds: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, Any]:
    """All results as JSON: a part a variant, and what they share.

    Args:
        speeds: of each variant, by `speed.speeds`.
        manifest: that of the comparison's tokens.

    Raises:
        InputError: a file is missing, or belongs to another text.
    """
    scores = {name: read_json(compare.folder / f"scores/{name}.json") for name in compare.variants}
    curves = {name: [_curve(compare, name, seed) for seed in compare.train.seeds] for name in scores}
    # What the quickest needs for all its tokens.
    seconds = min(compare.train.tokens / speeds[name]["training_tokens_per_second"] for name in scores)
    units = next(iter(scores.values()))
    if any(each["tokens"] != units["tokens"] for each in scores.values()):
        raise InputError(f"{compare.folder}/scores: of other test text than data/compare's tokens: score them again")
    tokens = np.array(units["tokens"])
    nats = {name: np.array(list(each["nats"].values())) for name, each in scores.items()}
    parts = {}
    for name, each in scores.items():
        tuned = read_json(compare.folder / f"tuned/{name}.json")
        rate = speeds[name]["training_tokens_per_second"]
        parts[name] = {
            "parameters": each["parameters"],
            "state_bytes": each["state_bytes"],
            **summary(nats[name], tokens, each["bytes"], compare.score),
            "against_reference": against(nats[name], nats.get(compare.reference), tokens, compare.score),
            "validation_nats_at_equal_seconds": at(curves[name], seconds * rate),
            "speed": dict(speeds[name]),
            "settings": tuned["best"],
            "trials": len(tuned["trials"]),
            "diverged_trials": sum(row["validation_nats_per_token"] is None for row in tuned["trials"]),
            "curves": curves[name],
        }
    return {
        "name": compare.name,
        "corpus": manifest["corpus"],
        "tokenizer": {"kind": manifest["kind"], "vocab_size": manifest["vocab_size"]},
        "reference": compare.reference if compare.reference in scores else None,
        "unit": units["unit"],
        "units": len(tokens),
        "test_tokens": int(tokens.sum()),
        "confidence": compare.score.confidence,
        "trial_tokens": compare.tune.tokens,
        "training_tokens": compare.train.tokens,
        "seeds": list(compare.train.seeds),
        "equal_seconds": seconds,
        "variants": parts,
    }


def summary(
    nats: Float[np.ndarray, "seeds units"], tokens: Int[np.ndarray, "units"], size: int, settings: Score
) -> dict[str, Any]:
    """Means and spread over seeds; the interval is of their mean, over units drawn again.

    Args:
        size: bytes of the test text.
    """
    by_seed = nats.sum(axis=1) / tokens.sum()
    mean = float(by_seed.mean())
    low_high = interval(nats.mean(axis=0), tokens, settings)
    return {
        "nats_per_token": mean,
        "nats_by_seed": by_seed.tolist(),
        "nats_spread": float(by_seed.std(ddof=1)) if len(by_seed) > 1 else None,
        "perplexity_per_token": math.exp(mean),
        "perplexity_interval": None if low_high is None else [math.exp(end) for end in low_high],
        "bits_per_byte": float(nats.mean(axis=0).sum()) / math.log(2) / size,
    }


def against(
    nats: Float[np.ndarray, "seeds units"],
    reference: Float[np.ndarray, "seeds units"] | None,
    tokens: Int[np.ndarray, "units"],
    settings: Score,
) -> dict[str, Any] | None:
    """The difference from the reference in nats a token; None for the reference itself.

    Another text would change it, and so would other seeds. The interval knows of both: the bootstrap's standard error
    over units, taken unit by unit, and that of the mean of each side's seeds. There is none for fewer than two seeds or
    FEWEST_UNITS. The difference is called better or worse only if the interval leaves 0 out.
    """
    if reference is None or reference is nats:
        return None
    difference = nats.mean(axis=0) - reference.mean(axis=0)
    mean, low_high = float(difference.sum() / tokens.sum()), None
    if min(len(nats), len(reference)) > 1 and len(tokens) >= FEWEST_UNITS:
        bootstrap = Bootstrap(settings.resamples, settings.confidence, settings.seed)
        of_text = bootstrap.standard_error(difference, tokens)
        seeds = [(side.sum(axis=1) / tokens.sum()).tolist() for side in (nats, reference)]
        low_high = difference_interval(mean, of_text or 0.0, len(tokens), seeds, settings.confidence)
    return {"nats_per_token": mean, "interval": low_high, "verdict": verdict(low_high)}


def difference_interval(
    mean: float, of_text: float, units: int, seeds: Sequence[Sequence[float]], confidence: float
) -> Interval:
    """Student's interval of a difference of two means, with the degrees of freedom of Welch (1947, Biometrika 34).

    Args:
        of_text: the standard error over `units` of text.
        seeds: the losses of each side's seeds, two or more.
    """
    parts = [(of_text**2, units - 1)]
    parts += [(statistics.variance(losses) / len(losses), len(losses) - 1) for losses in seeds]
    variance = sum(part for part, _ in parts)
    if variance == 0:
        return mean, mean
    freedom = variance**2 / sum(part**2 / freedom for part, freedom in parts)
    half = float(student.ppf((1 + confidence) / 2, freedom)) * math.sqrt(variance)
    return mean - half, mean + half


def verdict(low_high: Interval | None) -> str:
    """What an interval of a difference of losses shows."""
    if low_high is None or low_high[0] <= 0 <= low_high[1]:
        return "not shown"
    return "better" if low_high[1] < 0 else "worse"


def interval(amounts: Float[np.ndarray, "units"], tokens: Int[np.ndarray, "units"], settings: Score) -> Interval | None:
    """The bootstrap interval of Σ amounts / Σ tokens; None for fewer than FEWEST_UNITS."""
    if len(tokens) < FEWEST_UNITS:
        return None
    return Bootstrap(settings.resamples, settings.confidence, settings.seed).ratio(amounts, tokens)


def at(curves: Sequence[Curve], tokens: float) -> float | None:
    """The mean validation loss of curves after so many tokens, between their points on a line.

    None before the first point; the last one's beyond the end.
    """
    if any(tokens < curve[0][0] for curve in curves):
        return None
    return statistics.fmean(
        float(np.interp(tokens, [point[0] for point in curve], [point[1] for point in curve])) for curve in curves
    )


def _curve(compare: Compare, name: str, seed: int) -> Curve:
    path: Path = compare.folder / "models" / name / str(seed) / "curve.csv"
    with path.open(newline="", encoding="utf-8") as file:
        return [(float(row["tokens"]), float(row["validation_loss"])) for row in csv.DictReader(file)]
