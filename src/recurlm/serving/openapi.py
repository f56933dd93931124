"""/openapi.json with the limits and the models of this server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from recurlm.runtime.bundle import Task
from recurlm.serving.models import LoadedModel
from recurlm.serving.schema import LARGEST_SEED
from recurlm.serving.settings import Limits

TASKS: dict[str, Task] = {"CompletionRequest": "generate", "ScoreRequest": "score", "FillRequest": "fill"}


def describe(app: FastAPI, limits: Limits, models: Mapping[str, LoadedModel]) -> None:
    """Add the limits and the models' names to the app's OpenAPI description."""
    description: dict[str, Any] = app.openapi()
    schemas = description["components"]["schemas"]
    for name, task in TASKS.items():
        able = [model.name for model in models.values() if task in model.bundle.tasks]
        properties = schemas[name]["properties"]
        if not able:
            continue
        _typed(properties["model"], "string")["enum"] = able
        if len(able) > 1:
            properties["model"] = {"type": "string", "enum": able}
            schemas[name]["required"] = [*schemas[name].get("required", []), "model"]
    for name in ("CompletionRequest", "FillRequest"):
        # FastAPI writes it as a float, which rounds it up.
        _typed(schemas[name]["properties"]["seed"], "integer")["maximum"] = LARGEST_SEED
    completion = schemas["CompletionRequest"]["properties"]
    _typed(completion["max_tokens"], "integer")["maximum"] = limits.max_tokens
    _typed(completion["n"], "integer")["maximum"] = limits.batch
    sizes = [model.bundle.vocabulary.tokenizer.get_vocab_size() for model in models.values()]
    for form in completion["prompt"]["anyOf"]:
        _bound(form, largest_token=max(sizes) - 1, max_prompts=limits.batch)


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
