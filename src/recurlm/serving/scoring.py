"""/score and /fill."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recurlm.runtime.filler import MAX_WORD_TOKENS
from recurlm.runtime.masked_text import MARKER
from recurlm.serving.errors import ApiError
from recurlm.serving.models import LoadedModel
from recurlm.serving.schema import FillRequest, FillResponse, ScoredToken, ScoreRequest, ScoreResponse
from recurlm.serving.settings import Limits
from recurlm.serving.text_stream import token_text


def score_tokens(request: ScoreRequest, model: LoadedModel, limits: Limits) -> int:
    """The number of tokens that are to be scored.

    Raises:
        ApiError, InputError: they are too many, or the text has lone surrogates.
    """
    model.check_length(request.text, "text", limits)
    size = len(model.bundle.vocabulary.ids(request.text, "the text"))
    if size > limits.prompt_tokens:
        raise ApiError(400, f"text: {size} tokens, at most {limits.prompt_tokens}", "text")
    return size


def score(request: ScoreRequest, model: LoadedModel) -> ScoreResponse:
    """Score a text."""
    vocabulary = model.bundle.vocabulary
    scored: list[ScoredToken] = []

    def on_tokens(tokens: Sequence[int], log_probs: Any) -> None:
        for token, log_prob in zip(tokens, log_probs.tolist(), strict=True):
            scored.append(ScoredToken(token=token_text(token, vocabulary), id=token, log_prob=log_prob))

    score = model.scorer.score(request.text, on_tokens if request.tokens else None)
    # In the response, only the protocol says that a cloze model's are pseudo-likelihoods.
    metrics = {name.removeprefix("pseudo_"): value for name, value in score.metrics().items()}
    return ScoreResponse.model_validate(
        {"model": model.name, **metrics, "token_log_probs": scored if request.tokens else None}
    )


def fill_work(request: FillRequest, model: LoadedModel, limits: Limits) -> int:
    """The tokens that are read to fill a text.

    Raises:
        ApiError, InputError: they are too many, or the text has lone surrogates.
    """
    model.check_length(request.text, "text", limits)
    vocabulary, words = model.bundle.vocabulary, len(MARKER.findall(request.text))
    largest = request.max_blank_tokens or MAX_WORD_TOKENS[vocabulary.kind]
    size = len(vocabulary.ids(request.text, "the text")) + words * largest
    # Each length of each word is tried, token by token, and then all are filled.
    work = size * words * largest * (largest + 3) // 2
    if work > limits.fill_work:
        raise ApiError(
            400,
            f"text: {size} tokens with {words} blanks of up to {largest} tokens are too much: fill it in parts",
            "text",
        )
    return work


def fill(request: FillRequest, model: LoadedModel) -> FillResponse:
    """Fill the masks of a text.

    Raises:
        InputError: it has no `___`, or something that the vocabulary lacks.
    """
    assert model.filler is not None
    filled = model.filler.fill(
        request.text, request.temperature, request.top_k, request.top_p, request.seed, request.max_blank_tokens
    )
    return FillResponse(model=model.name, text=filled)
