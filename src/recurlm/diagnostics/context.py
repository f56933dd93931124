"""Effective context: the loss of the same targets with the context truncated, shuffled or partly dropped.

After Khandelwal, He, Qi & Jurafsky 2018, "Sharp nearby, fuzzy far away" (arXiv:1805.04623). The tokens that are
more than k before the target are

    cut         removed: the model starts from a zero state k tokens before the target
    shuffled    put in a random order
    dropped     removed at random, a fraction of them; the others move together

A cloze model has such a context on either side, and both are changed alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int

from recurlm import config
from recurlm.diagnostics.intervals import Bootstrap
from recurlm.evaluation.perplexity import exact, nll_of
from recurlm.model import LanguageModel
from recurlm.objective import objective_of

Rows = Int[np.ndarray, "windows time"]
BATCH_SIZE = 64  # windows


def target_nll(
    model: LanguageModel, before: Rows, target: Int[np.ndarray, "windows"], after: Rows
) -> Float[np.ndarray, "windows"]:
    """−log p of each target in its context, from a zero state; `after` has no columns where only the left is read."""
    device, prediction = model.embedding.weight.device, before.shape[1] - 1
    losses = []
    with exact(model):
        for begin in range(0, len(target), BATCH_SIZE):
            rows = slice(begin, begin + BATCH_SIZE)
            tokens = torch.from_numpy(np.hstack([before[rows], target[rows, None], after[rows]])).to(device)
            for chunk, features in objective_of(model).predictions(model, tokens):
                if chunk.start <= prediction < chunk.stop:
                    y = features[:, prediction - chunk.start]
                    losses.append(nll_of(model, y, tokens[:, prediction + 1]).cpu().numpy())
    return np.concatenate(losses)


def shuffle(far: Rows, random: np.random.Generator) -> Rows:
    """Permute the tokens of each row independently."""
    return random.permuted(far, axis=1)


def drop(far: Rows, fraction: float, random: np.random.Generator) -> Rows:
    """Remove a random `fraction` of each row's tokens; the others stay in order."""
    kept = far.shape[1] - round(fraction * far.shape[1])
    positions = np.argsort(random.random(far.shape), axis=1)[:, :kept]
    return np.take_along_axis(far, np.sort(positions, axis=1), axis=1)


def measure(
    model: LanguageModel, windows: Rows, settings: config.Context, bootstrap: Bootstrap
) -> dict[str, Any] | None:
    """The loss for each k, its increase over that with the full context, and the increase's interval over windows.

    Args:
        windows: context and target; of a cloze model as many tokens after it (`Objective.window_size`).

    Returns:
        None where there is no window: no document is long enough.
    """
    if not len(windows):
        return None
    objective = objective_of(model)
    before, target, after = objective.around(windows)
    length, prefix = before.shape[1], objective.metric_prefix
    full = target_nll(model, before, target, after)
    random = np.random.default_rng(bootstrap.seed)

    def row(k: int, change: Callable[[Rows], Rows]) -> dict[str, Any]:
        left = np.hstack([change(before[:, : length - k]), before[:, length - k :]])
        right = np.hstack([after[:, :k], change(after[:, k:])])
        loss = target_nll(model, left, target, right).astype(np.float64)
        return {
            "k": k,
            f"{prefix}nats_per_token": float(loss.mean()),
            "increase": float((loss - full).mean()),
            "increase_interval": bootstrap.mean(loss - full),
        }

    beyond = [k for k in settings.beyond if k < length]
    cut = [row(k, lambda far: far[:, :0]) for k in settings.cut if k < length]
    return {
        "windows": len(target),
        "context_tokens": length,
        f"{prefix}whole_nats_per_token": float(full.mean(dtype=np.float64)),
        "cut": cut,
        "shuffled_beyond": [row(k, lambda far: shuffle(far, random)) for k in beyond],
        "dropped_beyond": [row(k, lambda far: drop(far, settings.drop_fraction, random)) for k in beyond],
        "drop_fraction": settings.drop_fraction,
        "tolerance_nats": settings.tolerance_nats,
        "effective_context_tokens": effective_context(
            [(entry["k"], entry["increase"]) for entry in cut], settings.tolerance_nats
        ),
    }


def effective_context(increases: list[tuple[int, float]], tolerance: float) -> int | None:
    """The smallest k from which on the increase stays within the tolerance; None if it never does."""
    best = None
    for k, increase in reversed(increases):
        if increase > tolerance:
            break
        best = k
    return best
