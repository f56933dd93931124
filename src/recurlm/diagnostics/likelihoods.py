"""−log p of every token of a split, where `recurlm.evaluation` gives the sum: same windows, same `token_nll`."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int, Integer

from recurlm.config import Evaluate
from recurlm.evaluation.perplexity import Score, exact, token_nll
from recurlm.evaluation.windows import batches, split_windows
from recurlm.model import LanguageModel
from recurlm.objective import objective_of


class SplitNLL(NamedTuple):
    """The negative log-likelihood of each token of a split; NaN at `<bos>`, which is never predicted."""

    nats: Float[np.ndarray, "tokens"]
    features: Float[np.ndarray, "tokens width"] | None
    """What the decoder read to predict the token; None if it was not asked for."""

    starts: Int[np.ndarray, "boundaries"]

    @property
    def text(self) -> Bool[np.ndarray, "tokens"]:
        """Mask of the tokens of text: all but `<bos>`."""
        mask = np.ones(len(self.nats), bool)
        mask[self.starts[:-1]] = False
        return mask

    @property
    def score(self) -> Score:
        """The sum, as `recurlm.evaluation.perplexity.describe` takes it."""
        return total(self.nats[self.text])


def total(nats: Float[np.ndarray, "tokens"]) -> Score:
    """The score of tokens of text."""
    return Score(float(nats.sum(dtype=np.float64)), len(nats))


def split_nll(
    model: LanguageModel,
    ids: Integer[np.ndarray, "tokens"],
    starts: Int[np.ndarray, "boundaries"],
    settings: Evaluate,
    keep_features: bool = False,
) -> SplitNLL:
    """Score every text token once, by the protocol of `recurlm.evaluation.perplexity.score`."""
    windows = split_windows(starts, settings.window_tokens, settings.context_tokens, objective_of(model).both_sides)
    nats = np.full(len(ids), np.nan, np.float32)
    features = np.zeros((len(ids), model.decoder.in_features), np.float32) if keep_features else None
    with exact(model):
        for batch in batches(ids, windows, settings.batch_size):
            scores = token_nll(model, batch, keep_features)
            nats[batch.positions] = scores.nats[batch.scored]
            if features is not None and scores.features is not None:
                features[batch.positions] = scores.features[batch.scored]
    return SplitNLL(nats, features, starts)
