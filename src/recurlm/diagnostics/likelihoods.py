"""−log p of every single token, where `recurlm.evaluation` sums them up: the same sections, the same scorers."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Integer

from recurlm.config import Evaluate
from recurlm.evaluation.perplexity import CHUNK, Score, cloze, exact, log_prob_of
from recurlm.evaluation.sections import Batch, batches, cut
from recurlm.model import LanguageModel


class Read(NamedTuple):
    """What a model says of each token of a split; `<bos>` is never predicted, and has NaN."""

    nats: Float[np.ndarray, "tokens"]
    features: Float[np.ndarray, "tokens width"] | None
    """What the decoder read to predict the token; None if it was not asked for."""

    starts: Int[np.ndarray, "boundaries"]

    @property
    def text(self) -> Bool[np.ndarray, "tokens"]:
        """Where a token of text stands, and no `<bos>`."""
        mask = np.ones(len(self.nats), bool)
        mask[self.starts[:-1]] = False
        return mask

    @property
    def score(self) -> Score:
        """The sum, as `recurlm.evaluation.metrics.describe` takes it."""
        return total(self.nats[self.text])


def total(nats: Float[np.ndarray, "tokens"]) -> Score:
    """The score of tokens of text."""
    return Score(float(nats.sum(dtype=np.float64)), len(nats))


def read(
    model: LanguageModel,
    ids: Integer[np.ndarray, "tokens"],
    starts: Int[np.ndarray, "boundaries"],
    settings: Evaluate,
    keep_features: bool = False,
) -> Read:
    """Score every text token once, by the protocol of `recurlm.evaluation.perplexity.score`."""
    sections = cut(starts, settings.window_tokens, settings.context_tokens, both_sides=not model.causal)
    nats = np.full(len(ids), np.nan, np.float32)
    width = model.decoder.in_features
    features = np.zeros((len(ids), width), np.float32) if keep_features else None
    with exact(model):
        scorer = None if model.causal else cloze(model)
        for batch in batches(ids, sections, settings.batch_size):
            if scorer is None:
                _walk(model, batch, nats, features)
            else:
                nats[batch.places] = -scorer(batch)[batch.scored]
    return Read(nats, features, starts)


def _walk(
    model: LanguageModel,
    batch: Batch,
    nats: Float[np.ndarray, "tokens"],
    features: Float[np.ndarray, "tokens width"] | None,
) -> None:
    """From left to right in chunks, as `recurlm.evaluation.perplexity.streamed`; fills in what it finds."""
    device = model.embedding.weight.device
    tokens, scored = torch.from_numpy(batch.tokens).to(device), torch.from_numpy(batch.scored).to(device)
    place = batch.begin[:, None] + 1 + np.arange(batch.scored.shape[1])
    state = model.initial_state(len(tokens))
    for at in range(0, scored.shape[1], CHUNK):
        here = slice(at, at + CHUNK)
        y, state = model.features(tokens[:, :-1][:, here], state)
        mask = scored[:, here]
        places = place[:, here][batch.scored[:, here]]
        nats[places] = -log_prob_of(model, y[mask], tokens[:, 1:][:, here][mask]).cpu().numpy()
        if features is not None:
            features[places] = y[mask].cpu().numpy()
