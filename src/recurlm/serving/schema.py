"""Requests and responses. Those of /v1/completions are OpenAI's; fields that OpenAI doesn't have say "extension"."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from fastapi import FastAPI
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, model_validator

from recurlm.runtime.bundle import Bundle, Task
from recurlm.runtime.filler import MARKER
from recurlm.runtime.generator import MAX_STOP_LENGTH, MAX_STOPS
from recurlm.serving.settings import Limits

LARGEST_SEED = 2**63 - 1
MAX_LOGPROBS = 5


def _whole(value: object) -> object:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _one_item(value: object) -> object:
    return dict(list(value.items())[:1]) if isinstance(value, dict) else value


# In JSON 4.0 is an integer too.
WHOLE = BeforeValidator(_whole)
# One error of a list is enough: a body may hold hundreds of thousands.
FULL_LIST = Field(min_length=1, fail_fast=True)
Tokens = Annotated[list[Annotated[int, Field(ge=0), WHOLE]], FULL_LIST]
Prompt = str | Annotated[list[str], FULL_LIST] | Tokens
Prompts = Prompt | Annotated[list[Tokens], FULL_LIST]
Stop = Annotated[str, Field(min_length=1, max_length=MAX_STOP_LENGTH)]
Seed = Annotated[int, Field(ge=0, le=LARGEST_SEED), WHOLE]
Temperature = Annotated[float, Field(ge=0, le=100)]
TopP = Annotated[float, Field(gt=0, le=1)]


class _Body(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _keep_one_unknown(cls, data: object) -> object:
        """Keep one unknown field, which is refused: each would be an error of its own."""
        if not isinstance(data, dict):
            return data
        unknown = next((key for key in data if key not in cls.model_fields), None)
        return {key: value for key, value in data.items() if key in cls.model_fields or key == unknown}


class _Request(_Body):
    model: str | None = Field(None, description="Its name in /v1/models; may be left out where only one can do this.")


class StreamOptions(_Body):
    include_usage: bool = False
    include_obfuscation: bool | None = None  # accepted: the pieces say nothing that their lengths don't


OPTIONS_NEED_STREAM: dict[str, JsonValue] = {
    "if": {"required": ["stream_options"], "properties": {"stream_options": {"type": "object"}}},
    "then": {"required": ["stream"], "properties": {"stream": {"const": True}}},
}


class CompletionRequest(_Request):
    """Where a field is null, its default holds."""

    model_config = ConfigDict(json_schema_extra=OPTIONS_NEED_STREAM)

    prompt: Prompts | None = None
    max_tokens: Annotated[int, Field(ge=0), WHOLE] | None = Field(None, description="Default: 16.")
    temperature: Temperature | None = Field(None, description="0 is greedy. Default: 1.")
    top_p: TopP | None = Field(None, description="Default: 1, which keeps every token.")
    n: Annotated[int, Field(ge=1), WHOLE] | None = Field(None, description="Texts for each prompt. Default: 1.")
    best_of: Annotated[int, Field(ge=1, le=1), WHOLE] | None = Field(
        None, description="Only 1: no text is generated to be dropped."
    )
    seed: Seed | None = Field(None, description="Choice i has the seed + i.")
    stop: Stop | Annotated[list[Stop], Field(max_length=MAX_STOPS, fail_fast=True)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=MAX_LOGPROBS), WHOLE] | None = Field(
        None, description="Log-probabilities of the tokens, and of so many of the likeliest, at temperature 1."
    )
    user: str | None = Field(None, description="Accepted, and not used.")
    suffix: None = None
    # One item is enough to be refused: each could be an error of its own.
    logit_bias: Annotated[dict[str, float], Field(max_length=0), BeforeValidator(_one_item)] | None = None
    presence_penalty: Annotated[float, Field(ge=0, le=0)] | None = Field(None, description="Only 0.")
    frequency_penalty: Annotated[float, Field(ge=0, le=0)] | None = Field(
        None, description="Only 0: see repetition_penalty."
    )
    top_k: Annotated[int, Field(ge=0), WHOLE] | None = Field(
        None, description="An extension: sample from so many of the likeliest tokens. Default: 0, from all."
    )
    min_p: Annotated[float, Field(ge=0, le=1)] | None = Field(
        None,
        description="An extension: sample from tokens of this fraction of the likeliest one's probability. Default: 0.",
    )
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100)] | None = Field(
        None, description="An extension: above 1 makes tokens less likely that the text already has. Default: 1."
    )


class Logprobs(BaseModel):
    """`tokens[i]` begins at character `text_offset[i]` of the choice's text."""

    tokens: list[str]
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    text_offset: list[int]


class Choice(BaseModel):
    text: str
    index: int
    logprobs: Logprobs | None = None
    finish_reason: Literal["stop", "length"] | None = Field(None, description="Null in a stream's earlier pieces.")


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int = Field(description="Seconds since 1970.")
    model: str
    system_fingerprint: str = Field(description="The same for the same bytes of a bundle.")
    choices: list[Choice]
    usage: Usage | None = None


class Model(BaseModel):
    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: Literal["recurlm"] = "recurlm"
    variant: str
    precision: str
    does: list[Task]


class ModelList(BaseModel):
    object: Literal["list"] = "list"
    data: list[Model]


class ScoreRequest(_Request):
    text: Annotated[str, Field(min_length=1)]
    tokens: bool = Field(False, description="Whether to list each token's log-probability.")


class ScoredToken(BaseModel):
    token: str = Field(description="Its text; `bytes:` and its bytes, as `\\x80`, where they are no whole characters.")
    id: int
    log_prob: float = Field(description="In nats.")


class ScoreResponse(BaseModel):
    """A cloze model's are pseudo-log-likelihoods, which compare only with one another."""

    model: str
    protocol: Literal["streamed", "cloze"]
    nats: float
    nats_per_token: float
    perplexity_per_token: float | None
    perplexity_per_word: float | None
    bits_per_byte: float
    bits_per_character: float
    tokens: int
    words: int
    characters: int
    bytes: int
    unknown_tokens: int
    out_of_vocabulary_words: int
    token_log_probs: list[ScoredToken] | None = None


class FillRequest(_Request):
    text: str = Field(
        description="With ___ (three underscores) where a word is missing.",
        json_schema_extra={"pattern": MARKER.pattern},
    )
    temperature: Temperature = 0.0
    top_k: Annotated[int, Field(ge=0), WHOLE] = 0
    top_p: TopP = 1.0
    seed: Seed | None = None
    max_mask_tokens: Annotated[int, Field(ge=1, le=12), WHOLE] | None = Field(
        None, description="Of a word. Default: 3; 12 for a char tokenizer, 1 for a word tokenizer."
    )


class FillResponse(BaseModel):
    model: str
    text: str


class Health(BaseModel):
    status: Literal["ok"] = "ok"
    models: list[str]


class Hint(BaseModel):
    """What somebody reads who opens the server in a browser."""

    message: str = "This is recurlm's server: POST to one of these addresses, or GET the others."
    post: list[str] = ["/v1/completions", "/score", "/fill"]
    get: list[str] = ["/v1/models", "/health", "/metrics", "/openapi.json"]
    example: dict[str, JsonValue] = {
        "url": "/v1/completions",
        "headers": {"Content-Type": "application/json"},
        "body": {"prompt": "To be", "max_tokens": 50, "seed": 1},
    }


class ErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class Error(BaseModel):
    error: ErrorBody


TASKS: dict[str, Task] = {"CompletionRequest": "generate", "ScoreRequest": "score", "FillRequest": "fill"}


def describe(app: FastAPI, limits: Limits, models: Mapping[str, Bundle]) -> None:
    """Add the limits and the models' names to the app's OpenAPI description."""
    description: dict[str, Any] = app.openapi()
    schemas = description["components"]["schemas"]
    for request, task in TASKS.items():
        able = [name for name, bundle in models.items() if task in bundle.tasks]
        properties = schemas[request]["properties"]
        if not able:
            continue
        _typed(properties["model"], "string")["enum"] = able
        if len(able) > 1:
            properties["model"] = {"type": "string", "enum": able}
            schemas[request]["required"] = [*schemas[request].get("required", []), "model"]
    for request in ("CompletionRequest", "FillRequest"):
        # FastAPI writes it as a float, which rounds it up.
        _typed(schemas[request]["properties"]["seed"], "integer")["maximum"] = LARGEST_SEED
    completion = schemas["CompletionRequest"]["properties"]
    _typed(completion["max_tokens"], "integer")["maximum"] = limits.max_tokens
    _typed(completion["n"], "integer")["maximum"] = limits.max_batch
    sizes = [bundle.vocabulary.size for bundle in models.values()]
    for form in completion["prompt"]["anyOf"]:
        _bound(form, largest_token=max(sizes) - 1, max_prompts=limits.max_batch)


def _bound(form: dict[str, Any], largest_token: int, max_prompts: int) -> None:
    """Bound the token ids and the number of prompts in one form of `prompt`."""
    items = form.get("items")
    if items is None:
        return
    if items["type"] == "integer":
        items["maximum"] = largest_token
    else:
        form["maxItems"] = max_prompts
        _bound(items, largest_token, max_prompts)


def _typed(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """The alternative of `anyOf` that has this type."""
    alternative: dict[str, Any] = next(each for each in schema["anyOf"] if each.get("type") == kind)
    return alternative
