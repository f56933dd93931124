"""Who scores: a PyTorch model over the sections of a split, in fp32, summed in float64.

Sections are batched for speed only: rows of a batch don't see each other, and padding is never scored. What remains of
the batch size is the order in which a matrix product adds up its float32 terms.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor
from torch.nn import functional as F

from recurlm.evaluation.sections import Batch, batches, cut
from recurlm.model import LanguageModel

CHUNK = 128  # tokens that a causal model reads at once, the state carried on
LOGITS = 2**24  # how many are held at once: 64 MiB, however large the vocabulary

Scorer = Callable[[Batch], Float[np.ndarray, "batch predicted"]]
"""Log-probabilities of a batch's tokens, but for the first of each row; those that are not `scored` may be anything."""


class Score(NamedTuple):
    """A sum of −log p over scored tokens, and how many there are."""

    nats: float
    tokens: int


def score(
    model: LanguageModel,
    ids: Integer[np.ndarray, "tokens"],
    starts: Int[np.ndarray, "boundaries"],
    window_tokens: int,
    context_tokens: int,
    batch_size: int,
    progress: Callable[[int], object] | None = None,
) -> Score:
    """Score every text token of a split once, on the device that holds the model.

    A causal model predicts a token from those before it. A cloze model predicts it from those on both sides, which
    gives pseudo-log-likelihoods: not comparable with the others. `progress` hears of each batch's scored tokens.
    """
    sections = cut(starts, window_tokens, context_tokens, both_sides=not model.causal)
    with exact(model):
        scorer = streamed(model) if model.causal else cloze(model)
        return total(batches(ids, sections, batch_size), scorer, progress)


def total(scored: Iterable[Batch], scorer: Scorer, progress: Callable[[int], object] | None = None) -> Score:
    """Sum up what `scorer` says of the scored tokens of all batches."""
    nats, tokens = 0.0, 0
    for batch in scored:
        count = int(batch.scored.sum())
        nats -= float(scorer(batch)[batch.scored].sum(dtype=np.float64))
        tokens += count
        if progress is not None:
            progress(count)
    return Score(nats, tokens)


def streamed(model: LanguageModel) -> Scorer:
    """Read a batch from left to right in chunks, carrying the state; the logits at t are about token t+1."""

    def log_prob(batch: Batch) -> Float[np.ndarray, "batch predicted"]:
        tokens, scored = _on_device(model, batch)
        state = model.initial_state(len(tokens))
        found = torch.zeros(scored.shape, device=tokens.device)
        for at in range(0, scored.shape[1], CHUNK):
            here = slice(at, at + CHUNK)
            features, state = model.features(tokens[:, :-1][:, here], state)
            mask = scored[:, here]
            found[:, here][mask] = log_prob_of(model, features[mask], tokens[:, 1:][:, here][mask])
        return found.cpu().numpy()

    return log_prob


def cloze(model: LanguageModel) -> Scorer:
    """Read a batch whole, since half of a cloze model runs from the right; the logits at t are about token t."""

    def log_prob(batch: Batch) -> Float[np.ndarray, "batch predicted"]:
        tokens, scored = _on_device(model, batch)
        features, _ = model.features(tokens, model.initial_state(len(tokens)))
        found = torch.zeros(scored.shape, device=tokens.device)
        found[scored] = log_prob_of(model, features[:, 1:][scored], tokens[:, 1:][scored])
        return found.cpu().numpy()

    return log_prob


def _on_device(model: LanguageModel, batch: Batch) -> tuple[Tensor, Tensor]:
    device = model.embedding.weight.device
    return torch.from_numpy(batch.tokens).to(device), torch.from_numpy(batch.scored).to(device)


def log_prob_of(
    model: LanguageModel, features: Float[Tensor, "scored width"], tokens: Int[Tensor, "scored"]
) -> Float[Tensor, "scored"]:
    """log p of each token, decoded a few rows at a time: the logits of a whole chunk are never held."""
    rows = max(1, LOGITS // model.vocab_size)
    parts = [
        -F.cross_entropy(model.decoder(some), targets, reduction="none")
        for some, targets in zip(torch.split(features, rows), torch.split(tokens, rows), strict=True)
    ]
    return torch.cat(parts)


@contextmanager
def exact(model: LanguageModel) -> Iterator[None]:
    """fp32, also inside a training loop: no dropout, no autocast, and no TF32 or bf16 behind a product or a kernel."""
    backends: Any = torch.backends
    places = (backends.cuda.matmul, backends.cudnn.rnn, backends.mkldnn.matmul, backends.mkldnn.rnn)
    training, precisions = model.training, [place.fp32_precision for place in places]
    model.eval()
    for place in places:
        place.fp32_precision = "ieee"
    try:
        with torch.no_grad(), torch.autocast(model.embedding.weight.device.type, enabled=False):
            yield
    finally:
        for place, precision in zip(places, precisions, strict=True):
            place.fp32_precision = precision
        model.train(training)
