"""Requests of /score and /fill, done in one go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recurlm.runtime.blanks import BLANK
from recurlm.runtime.filler import MOST_TOKENS
from recurlm.serving.errors import ApiError
from recurlm.serving.loaded import Loaded
from recurlm.serving.schema import FillAnswer, FillRequest, ScoreAnswer, ScoredToken, ScoreRequest
from recurlm.serving.settings import Limits
from recurlm.serving.writing import name_of


def score(request: ScoreRequest, model: Loaded, limits: Limits) -> ScoreAnswer:
    """Score a text.

    Raises:
        ApiError, InputError: it is too long, or half characters.
    """
    vocabulary = model.bundle.vocabulary
    size = len(vocabulary.ids(request.text, "the text"))
    if size > limits.prompt_tokens:
        raise ApiError(400, f"text: {size} tokens, at most {limits.prompt_tokens}", "text")
    heard: list[ScoredToken] = []

    def hear(tokens: Sequence[int], log_probs: Any) -> None:
        for token, log_prob in zip(tokens, log_probs.tolist(), strict=True):
            heard.append(ScoredToken(token=name_of(token, vocabulary), id=token, log_prob=log_prob))

    found = model.scorer.score(request.text, hear if request.tokens else None)
    # Here the protocol's name alone says that a cloze model's are pseudo.
    numbers = {name.removeprefix("pseudo_"): value for name, value in found.metrics().items()}
    return ScoreAnswer.model_validate(
        {"model": model.name, **numbers, "token_log_probs": heard if request.tokens else None}
    )


def fill(request: FillRequest, model: Loaded, limits: Limits) -> FillAnswer:
    """Fill a text's blanks.

    Raises:
        ApiError, InputError: it has none, or too many, or something that the vocabulary lacks.
    """
    assert model.filler is not None
    vocabulary, blanks = model.bundle.vocabulary, len(BLANK.findall(request.text))
    most = request.max_blank_tokens or MOST_TOKENS[vocabulary.kind]
    size = len(vocabulary.ids(request.text, "the text")) + blanks * most
    # Each length of each blank is tried, token after token, and then all are filled.
    work = size * blanks * most * (most + 3) // 2
    if work > limits.fill_work:
        raise ApiError(
            400,
            f"text: {size} tokens with {blanks} blanks of up to {most} tokens are too much: fill it in parts",
            "text",
        )
    filled = model.filler.fill(
        request.text, request.temperature, request.top_k, request.top_p, request.seed, request.max_blank_tokens
    )
    return FillAnswer(model=model.name, text=filled)
