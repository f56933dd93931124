"""/openapi.json tells the limits and the models of this very server."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI

from recurlm.serving.loaded import Loaded, Task
from recurlm.serving.schema import LARGEST_SEED
from recurlm.serving.settings import Limits

TASKS: dict[str, Task] = {"CompletionRequest": "generate", "ScoreRequest": "score", "FillRequest": "fill"}


def describe(app: FastAPI, limits: Limits, models: Mapping[str, Loaded]) -> None:
    """Write the limits and the models' names into the app's own description."""
    whole: dict[str, Any] = app.openapi()
    schemas = whole["components"]["schemas"]
    for name, task in TASKS.items():
        able = [model.name for model in models.values() if task in model.does()]
        properties = schemas[name]["properties"]
        if not able:
            continue
        _typed(properties["model"], "string")["enum"] = able
        if len(able) > 1:
            properties["model"] = {"type": "string", "enum": able}
            schemas[name]["required"] = [*schemas[name].get("required", []), "model"]
    for name in ("CompletionRequest", "FillRequest"):
        # FastAPI writes it as a float, which is more than it.
        _typed(schemas[name]["properties"]["seed"], "integer")["maximum"] = LARGEST_SEED
    completion = schemas["CompletionRequest"]["properties"]
    _typed(completion["max_tokens"], "integer")["maximum"] = limits.max_tokens
    _typed(completion["n"], "integer")["maximum"] = limits.batch
    sizes = [model.bundle.vocabulary.tokenizer.get_vocab_size() for model in models.values()]
    for form in completion["prompt"]["anyOf"]:
        _bound(form, largest_token=max(sizes) - 1, most=limits.batch)


def _bound(form: dict[str, Any], largest_token: int, most: int) -> None:
    """Bound the forms of a prompt: tokens, and how many prompts there may be."""
    items = form.get("items")
    if items is None:
        return
    if items["type"] == "integer":
        items["maximum"] = largest_token
    else:
        form["maxItems"] = most
        _bound(items, largest_token, most)


def _typed(schema: dict[str, Any], kind: str) -> dict[str, Any]:
    """The alternative of a type."""
    found: dict[str, Any] = next(one for one in schema["anyOf"] if one.get("type") == kind)
    return found
