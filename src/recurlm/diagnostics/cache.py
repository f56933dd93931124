"""The continuous neural cache: tokens that the model has just read become likelier (Grave, Joulin & Usunier 2017).

arXiv:1612.04426. At t the cache holds pairs (h_i, x_i+1) of the last tokens of the same document: a feature vector, and
the token that came after it. With h_t, from which x_t+1 is predicted,

    p_cache(w) ∝ Σ_i 1[w = x_i+1] exp(θ h_t · h_i)        p(w) = (1 − λ) p_model(w) + λ p_cache(w)

Nothing is trained. θ is given in units of 1 / mean ‖h‖² on the validation text: features of different models have
different lengths, and one grid then fits all of them. θ = 0 is a unigram cache (Kuhn & De Mori 1990). Where the cache
is empty, p is p_model.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor

from recurlm import config
from recurlm.diagnostics.likelihoods import SplitNLL

QUERIES = 256  # tokens predicted at once


def cache_probabilities(
    features: Float[np.ndarray, "tokens width"],
    ids: Integer[np.ndarray, "tokens"],
    windows: Sequence[int],
    thetas: Sequence[float],
) -> Float[np.ndarray, "windows thetas tokens"]:
    """p_cache of each token of one document; 0 where the cache is empty, as it is at the first one.

    Args:
        features: row i is what token i was predicted from.
        windows: how many pairs the cache holds; the oldest leave it first.
    """
    h, x = torch.from_numpy(features), torch.from_numpy(ids.astype(np.int64))
    probabilities = np.zeros((len(windows), len(thetas), len(x)), np.float32)
    for begin in range(0, len(x), QUERIES):
        end = min(begin + QUERIES, len(x))
        queries, keys = slice(begin, end), slice(max(0, begin - max(windows)), end)
        scores = h[queries] @ h[keys].T
        age = torch.arange(queries.start, queries.stop)[:, None] - torch.arange(keys.start, keys.stop)
        same = (x[queries, None] == x[keys]).float()
        for row, window in enumerate(windows):
            outside = (age < 1) | (age > window)
            for column, theta in enumerate(thetas):
                probabilities[row, column, queries] = _attend(theta * scores, outside, same).numpy()
    return probabilities


def _attend(
    scores: Float[Tensor, "queries keys"], outside: Tensor, same: Float[Tensor, "queries keys"]
) -> Float[Tensor, "queries"]:
    """The softmax weight, over the keys in the cache, of those whose token is the one to be predicted."""
    weights = torch.softmax(scores.masked_fill(outside, -torch.inf), dim=1)
    return torch.nan_to_num((weights * same).sum(dim=1))  # a row without a pair has 0/0


def interpolate(
    nats: Float[np.ndarray, "tokens"], cached: Float[np.ndarray, "tokens"], weight: float, empty: int = 1
) -> Float[np.ndarray, "tokens"]:
    """−log((1 − λ) p_model + λ p_cache) of one document's tokens; the cache is empty before the first `empty` ones."""
    p = (1 - weight) * np.exp(-nats.astype(np.float64)) + weight * cached
    p[:empty] = np.exp(-nats[:empty].astype(np.float64))
    return np.asarray(-np.log(p))


def cached_nll(test: SplitNLL, ids: Integer[np.ndarray, "tokens"], chosen: dict[str, Any]) -> Float[np.ndarray, "text"]:
    """−log p of each token of text, with the cache settings that `tune` chose."""
    documents = [
        interpolate(
            nats, cache_probabilities(h, x, [chosen["window"]], [chosen["scaled_theta"]])[0, 0], chosen["lambda"]
        )
        for nats, h, x in _documents(test, ids)
    ]
    return np.concatenate(documents) if documents else np.empty(0)


def tune(
    validation: SplitNLL, ids: Integer[np.ndarray, "tokens"], grid: config.Cache
) -> tuple[dict[str, Any], list[Any]]:
    """The settings with the least loss on validation text; and for each window and θ the best λ with its loss."""
    documents = list(_documents(validation, ids))
    square = float(np.mean(np.concatenate([(h.astype(np.float64) ** 2).sum(axis=1) for _, h, _ in documents])))
    thetas = [theta / square for theta in grid.theta]
    losses = np.zeros((len(grid.window), len(thetas), len(grid.lambda_)))
    for nats, h, x in documents:
        cached = cache_probabilities(h, x, grid.window, thetas)
        for index in np.ndindex(losses.shape):
            losses[index] += interpolate(nats, cached[index[:2]], grid.lambda_[index[2]]).sum()
    tokens = sum(len(x) for _, _, x in documents)
    trials = []
    for row, column in np.ndindex(losses.shape[:2]):
        depth = int(losses[row, column].argmin())
        trials.append(
            {
                "window": grid.window[row],
                "theta": grid.theta[column],
                "scaled_theta": thetas[column],
                "lambda": grid.lambda_[depth],
                "nats_per_token": float(losses[row, column, depth]) / tokens,
            }
        )
    best = min(trials, key=lambda trial: float(trial["nats_per_token"]))
    return {key: value for key, value in best.items() if key != "nats_per_token"}, trials


def _documents(
    split: SplitNLL, ids: Integer[np.ndarray, "tokens"]
) -> list[tuple[Float[np.ndarray, "text"], Float[np.ndarray, "text width"], Int[np.ndarray, "text"]]]:
    """−log p, features and ids of each document's text."""
    assert split.features is not None
    return [
        (split.nats[start + 1 : stop], split.features[start + 1 : stop], ids[start + 1 : stop].astype(np.int64))
        for start, stop in pairwise(split.starts.tolist())
        if stop - start > 1
    ]
