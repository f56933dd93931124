"""Planted faults of tokenizer.json, bundle.json and what the graphs say of themselves."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from recurlm.storage import read_json, sha256_of, write_json, write_sealed_json

Change = Callable[[dict[str, Any]], None]


def faults(cloze: bool) -> dict[str, Callable[[Path], None]]:
    """By name: what plants each fault in a bundle's folder."""
    description: dict[str, Change] = {
        "a special id moved": lambda content: content["special"].update(bos=content["vocab_size"] - 1),
        "the mask's id changed": lambda content: content["special"].update(mask=content["vocab_size"] - 2),
        "the default temperature": lambda content: content["sampling_defaults"].update(temperature=0.5),
        "a default left out": lambda content: content["sampling_defaults"].popitem(),
        "one token more": lambda content: content.update(vocab_size=content["vocab_size"] + 1),
        "no token suppressed": lambda content: content.update(suppressed_tokens=[]),
        "states in another order": lambda content: content.update(
            state_spec=dict(reversed(content["state_spec"].items()))
        ),
        "the size of a state": lambda content: content["state_spec"].update({next(iter(content["state_spec"])): [1]}),
        "another kind of tokenizer": lambda content: content.update(tokenizer_kind="word"),
        "another precision": lambda content: content.update(
            precision="int8" if content["precision"] != "int8" else "int4"
        ),
        "another variant": lambda content: content.update(variant="other"),
        "more products": lambda content: content["products"].update({next(iter(content["products"])): 99}),
        "better metrics": lambda content: content["metrics"].update(protocol="other"),
        "another model": lambda content: content.update(model_sha256="0" * 64),
        "a graph that is not named": lambda content: content["files"].pop("scorer.onnx"),
    }
    if cloze:
        description["sides exchanged"] = lambda content: content.update(
            directions=dict(exchanged(content["directions"]))
        )
    planted: dict[str, Callable[[Path], None]] = {
        f"bundle.json: {name}": partial(describe, change) for name, change in description.items()
    }
    tokenizer: dict[str, Change] = {
        "two pieces exchanged": partial(exchange, first=-1, second=-2),
        "a special token exchanged with a piece": partial(exchange, first=0, second=-1),
        "lower case": lambda content: content.update(normalizer={"type": "Lowercase"}),
        "decoded with spaces": lambda content: content.update(
            decoder={"type": "WordPiece", "prefix": "##", "cleanup": False}
        ),
    }
    planted |= {f"tokenizer.json: {name}": partial(tokenize, change) for name, change in tokenizer.items()}
    planted["step.onnx: another variant in its metadata"] = partial(tag, "variant", "other")
    planted["step.onnx: states in another order in its metadata"] = partial(tag, "states", "[]")
    return planted


def exchanged(directions: dict[str, Any]) -> list[tuple[str, Any]]:
    names, values = list(directions), list(directions.values())
    return list(zip(names, reversed(values), strict=True))


def describe(change: Change, folder: Path) -> None:
    """Change what bundle.json says."""
    content = read_json(folder / "bundle.json")
    change(content)
    write_json(folder / "bundle.json", content)


def tokenize(change: Change, folder: Path) -> None:
    """Change tokenizer.json."""
    content = read_json(folder / "tokenizer.json")
    change(content)
    write_json(folder / "tokenizer.json", content)


def exchange(content: dict[str, Any], first: int, second: int) -> None:
    """Exchange the ids of two tokens, counted in the order of the ids."""
    vocabulary = content["model"]["vocab"]
    names = sorted(vocabulary, key=lambda name: int(vocabulary[name]))
    left, right = names[first], names[second]
    vocabulary[left], vocabulary[right] = vocabulary[right], vocabulary[left]


def tag(key: str, value: str, folder: Path) -> None:
    """Change an entry of step.onnx's metadata."""
    model = onnx.load(folder / "step.onnx")
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
    (folder / "step.onnx").write_bytes(model.SerializeToString(deterministic=True))


def renew_seals(folder: Path) -> None:
    """Let bundle.json name the files' present hashes and sizes: so the fault must be caught, and not the seal."""
    content = read_json(folder / "bundle.json")
    content.pop("seal", None)
    for name, entry in content["files"].items():
        path = folder / name
        entry.update(sha256=sha256_of(path), bytes=path.stat().st_size)
    write_sealed_json(folder / "bundle.json", content)
