"""How much of its context a model uses: the loss of the same tokens, the context cut, shuffled or thinned out.

After Khandelwal, He, Qi & Jurafsky 2018, "Sharp nearby, fuzzy far away" (arXiv:1805.04623). What is beyond k tokens is

    cut         gone: the model starts from a zero state k tokens before the one that it predicts
    shuffled    there, in a random order
    dropped     there, but for a random share of its tokens; what is left closes up

A cloze model has a context of that size on either side, and the same is done to both.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Int

from recurlm import config
from recurlm.diagnostics.intervals import Bootstrap
from recurlm.evaluation.perplexity import exact, nll_of
from recurlm.model import LanguageModel
from recurlm.objective import objective_of

Rows = Int[np.ndarray, "windows time"]
ROWS = 64  # windows read side by side


def nats(model: LanguageModel, before: Rows, target: Int[np.ndarray, "windows"], after: Rows) -> np.ndarray:
    """−log p of each target in its context, from a zero state; `after` has no columns where none is read."""
    device, prediction = model.embedding.weight.device, before.shape[1] - 1
    losses = []
    with exact(model):
        for begin in range(0, len(target), ROWS):
            rows = slice(begin, begin + ROWS)
            tokens = torch.from_numpy(np.hstack([before[rows], target[rows, None], after[rows]])).to(device)
            for place, features in objective_of(model).predictions(model, tokens):
                if place.start <= prediction < place.stop:
                    y = features[:, prediction - place.start]
                    losses.append(nll_of(model, y, tokens[:, prediction + 1]).cpu().numpy())
    return np.concatenate(losses)


def shuffled(far: Rows, random: np.random.Generator) -> Rows:
    """Each row in an order of its own."""
    return random.permuted(far, axis=1)


def thinned(far: Rows, fraction: float, random: np.random.Generator) -> Rows:
    """Each row without a random `fraction` of its tokens, rounded to whole ones; the others stay in their order."""
    kept = far.shape[1] - round(fraction * far.shape[1])
    places = np.argsort(random.random(far.shape), axis=1)[:, :kept]
    return np.take_along_axis(far, np.sort(places, axis=1), axis=1)


def measure(model: LanguageModel, found: Rows, settings: config.Context, bootstrap: Bootstrap) -> dict[str, Any] | None:
    """Loss against k, each with its increase over the whole context and that increase's interval over windows.

    Args:
        found: windows of text: `tokens` of context and the target; of a cloze model as many tokens after it.

    Returns:
        None where there is no window: the split has no text that is long enough.
    """
    if not len(found):
        return None
    objective = objective_of(model)
    before, target, after = objective.around(found)
    length, prefix = before.shape[1], objective.metric_prefix
    whole = nats(model, before, target, after)
    random = np.random.default_rng(bootstrap.seed)

    def changed(k: int, change: Callable[[Rows], Rows]) -> dict[str, Any]:
        left = np.hstack([change(before[:, : length - k]), before[:, length - k :]])
        right = np.hstack([after[:, :k], change(after[:, k:])])
        loss = nats(model, left, target, right).astype(np.float64)
        return {
            "k": k,
            f"{prefix}nats_per_token": float(loss.mean()),
            "increase": float((loss - whole).mean()),
            "increase_interval": bootstrap.mean(loss - whole),
        }

    near = [k for k in settings.cut if k < length]
    beyond = [k for k in settings.beyond if k < length]
    cut = [changed(k, lambda far: far[:, :0]) for k in near]
    return {
        "windows": len(target),
        "context_tokens": length,
        f"{prefix}whole_nats_per_token": float(whole.mean(dtype=np.float64)),
        "cut": cut,
        "shuffled_beyond": [changed(k, lambda far: shuffled(far, random)) for k in beyond],
        "dropped_beyond": [changed(k, lambda far: thinned(far, settings.drop_fraction, random)) for k in beyond],
        "drop_fraction": settings.drop_fraction,
        "tolerance_nats": settings.tolerance_nats,
        "effective_context_tokens": effective([(row["k"], row["increase"]) for row in cut], settings.tolerance_nats),
    }


def effective(increases: list[tuple[int, float]], tolerance: float) -> int | None:
    """The smallest k from which on a cut costs no more than the tolerance; None if every cut does."""
    best = None
    for k, increase in reversed(increases):
        if increase > tolerance:
            break
        best = k
    return best
