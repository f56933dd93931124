"""Negative log-likelihood of a split by a PyTorch model, and its metrics: window by window in fp32, summed in float64.

Windows are batched for speed only: rows of a batch are independent, and padding is never scored. The batch size changes
no more than the order in which a matrix product adds its float32 terms.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torch.nn import functional as F

from recurlm.errors import InputError
from recurlm.evaluation.windows import Batch, Windows, batches, split_windows
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.tokens.files import Ids

COUNTS = ("tokens", "words", "bytes", "characters")
MAX_LOGITS = 2**24  # held at once: 64 MiB, whatever the size of the vocabulary

Scorer = Callable[[Batch], Float[np.ndarray, "batch predicted"]]
"""Negative log-likelihoods of a batch's tokens, but for the first of each row; only those that are `scored` count."""


class Score(NamedTuple):
    """A sum of −log p over scored tokens, and how many there are."""

    nats: float
    tokens: int


class TokenNLL(NamedTuple):
    """The negative log-likelihood of each token of a batch but the first of each row; 0 where it is not scored."""

    nats: Float[np.ndarray, "batch predicted"]
    features: Float[np.ndarray, "batch predicted width"] | None
    """What the decoder read to predict the token; None if it was not asked for."""


def token_nll(model: LanguageModel, batch: Batch, keep_features: bool = False) -> TokenNLL:
    """Negative log-likelihoods by a model, on its device; call it within `exact(model)`.

    Every score rests on this: perplexity, its breakdowns, the neural cache and dynamic evaluation.
    """
    device = model.embedding.weight.device
    tokens, scored = torch.from_numpy(batch.tokens).to(device), torch.from_numpy(batch.scored).to(device)
    nats = torch.zeros(scored.shape, device=device)
    width = model.decoder.in_features
    kept = np.zeros((*batch.scored.shape, width), np.float32) if keep_features else None
    for chunk, features in objective_of(model).predictions(model, tokens):
        mask = scored[:, chunk]
        nats[:, chunk][mask] = nll_of(model, features[mask], tokens[:, 1:][:, chunk][mask])
        if kept is not None:
            kept[:, chunk] = features.cpu().numpy()
    return TokenNLL(nats.cpu().numpy(), kept)


def nll_of(
    model: LanguageModel, features: Float[Tensor, "scored width"], tokens: Int[Tensor, "scored"]
) -> Float[Tensor, "scored"]:
    """−log p of each token, decoded a few rows at a time, so that the logits of all rows are never held."""
    rows = max(1, MAX_LOGITS // model.vocab_size)
    parts = [
        F.cross_entropy(model.decoder(chunk), targets, reduction="none")
        for chunk, targets in zip(torch.split(features, rows), torch.split(tokens, rows), strict=True)
    ]
    return torch.cat(parts)


def score(
    model: LanguageModel,
    ids: Integer[Ids, "tokens"],
    starts: Int[np.ndarray, "boundaries"],
    window_tokens: int,
    context_tokens: int,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> Score:
    """Score every text token of a split once.

    A cloze model's log-likelihoods are pseudo-log-likelihoods: not comparable with the others. `progress` is called
    with the number of scored tokens of each batch.
    """
    windows = split_windows(starts, window_tokens, context_tokens, objective_of(model).both_sides)
    return score_windows(model, ids, windows, batch_size, progress)


def score_windows(
    model: LanguageModel,
    ids: Integer[Ids, "tokens"],
    windows: Windows,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
    part: tuple[int, int] = (0, 1),
) -> Score:
    """Score the tokens of some windows of a split; with `part` (r, W) those of each W-th batch, from batch r on."""
    first, every = part
    with exact(model):
        own = islice(batches(ids, windows, batch_size), first, None, every)
        return total(own, lambda batch: token_nll(model, batch).nats, progress)


def total(scored: Iterable[Batch], scorer: Scorer, progress: Callable[[int], object] | None = None) -> Score:
    """Sum the negative log-likelihoods of the scored tokens of all batches."""
    nats, tokens = 0.0, 0
    for batch in scored:
        count = int(batch.scored.sum())
        nats += float(scorer(batch)[batch.scored].sum(dtype=np.float64))
        tokens += count
        if progress is not None:
            progress(count)
    return Score(nats, tokens)


@contextmanager
def exact(model: LanguageModel) -> Iterator[None]:
    """Evaluation mode in exact fp32, also inside a training loop: no dropout, no autocast, no TF32 or bf16 kernels."""
    backends: Any = torch.backends
    settings = (backends.cuda.matmul, backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.rnn)
    training, precisions = model.training, [setting.fp32_precision for setting in settings]
    model.eval()
    for setting in settings:
        setting.fp32_precision = "ieee"
    try:
        with torch.no_grad(), torch.autocast(model.embedding.weight.device.type, enabled=False):
            yield
    finally:
        for setting, precision in zip(settings, precisions, strict=True):
            setting.fp32_precision = precision
        model.train(training)


def describe(score: Score, counts: Mapping[str, Any], prefix: str = "") -> dict[str, float | int | None]:
    """The metrics of one split, from its score and the counts in its manifest.

    A rate over a count of 0 is None, and so is a perplexity that overflows.

    Args:
        prefix: of the names: "pseudo_" for a cloze model's pseudo-likelihoods (`Objective.metric_prefix`).

    Raises:
        InputError: the split has no tokens, not all of them were scored, or the model's likelihoods are not finite.
    """
    if counts["tokens"] == 0:
        raise InputError("data/tokens: the split has no tokens: add text, or give it a larger share")
    if score.tokens != counts["tokens"]:
        raise InputError(f"data/tokens: {score.tokens} tokens, but {counts['tokens']} in the manifest: tokenize again")
    if not math.isfinite(score.nats):
        raise InputError("the model's likelihoods are not finite: train it again with lower learning rates")
    nats_per_word = _rate(score.nats, counts["words"])
    values = {
        "nats_per_token": score.nats / score.tokens,
        "perplexity_per_token": _exp(score.nats / score.tokens),
        "perplexity_per_word": None if nats_per_word is None else _exp(nats_per_word),
        "bits_per_byte": score.nats / math.log(2) / counts["bytes"],
        "bits_per_character": score.nats / math.log(2) / counts["characters"],
    }
    return {
        **{prefix + name: value for name, value in values.items()},
        **{name: counts[name] for name in COUNTS},
        "out_of_vocabulary_rate": _rate(counts["out_of_vocabulary_words"], counts["words"]),
    }


def _rate(amount: float | int, count: int) -> float | None:
    return amount / count if count else None


def _exp(nats: float) -> float | None:
    try:
        return math.exp(nats)
    except OverflowError:
        return None
