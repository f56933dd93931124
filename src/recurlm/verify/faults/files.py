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
        "a special id moved": lambda told: told["special"].update(bos=told["vocab_size"] - 1),
        "the mask's id changed": lambda told: told["special"].update(mask=told["vocab_size"] - 2),
        "the default temperature": lambda told: told["sampling_defaults"].update(temperature=0.5),
        "a default left out": lambda told: told["sampling_defaults"].popitem(),
        "one token more": lambda told: told.update(vocab_size=told["vocab_size"] + 1),
        "no token suppressed": lambda told: told.update(suppressed_tokens=[]),
        "states in another order": lambda told: told.update(state_spec=dict(reversed(told["state_spec"].items()))),
        "the size of a state": lambda told: told["state_spec"].update({next(iter(told["state_spec"])): [1]}),
        "another kind of tokenizer": lambda told: told.update(tokenizer_kind="word"),
        "another precision": lambda told: told.update(precision="int8" if told["precision"] != "int8" else "int4"),
        "another variant": lambda told: told.update(variant="other"),
        "more products": lambda told: told["products"].update({next(iter(told["products"])): 99}),
        "better metrics": lambda told: told["metrics"].update(protocol="other"),
        "another model": lambda told: told.update(model_sha256="0" * 64),
        "a graph that is not named": lambda told: told["files"].pop("scorer.onnx"),
    }
    if cloze:
        description["sides exchanged"] = lambda told: told.update(directions=dict(exchanged(told["directions"])))
    found: dict[str, Callable[[Path], None]] = {
        f"bundle.json: {name}": partial(describe, change) for name, change in description.items()
    }
    tokenizer: dict[str, Change] = {
        "two pieces exchanged": partial(exchange, first=-1, second=-2),
        "a special token exchanged with a piece": partial(exchange, first=0, second=-1),
        "lower case": lambda told: told.update(normalizer={"type": "Lowercase"}),
        "decoded with spaces": lambda told: told.update(
            decoder={"type": "WordPiece", "prefix": "##", "cleanup": False}
        ),
    }
    found |= {f"tokenizer.json: {name}": partial(tokenize, change) for name, change in tokenizer.items()}
    found["step.onnx: another variant in its metadata"] = partial(tag, "variant", "other")
    found["step.onnx: states in another order in its metadata"] = partial(tag, "states", "[]")
    return found


def exchanged(directions: dict[str, Any]) -> list[tuple[str, Any]]:
    names, values = list(directions), list(directions.values())
    return list(zip(names, reversed(values), strict=True))


def describe(change: Change, folder: Path) -> None:
    """Change what bundle.json says."""
    told = read_json(folder / "bundle.json")
    change(told)
    write_json(folder / "bundle.json", told)


def tokenize(change: Change, folder: Path) -> None:
    """Change tokenizer.json."""
    told = read_json(folder / "tokenizer.json")
    change(told)
    write_json(folder / "tokenizer.json", told)


def exchange(told: dict[str, Any], first: int, second: int) -> None:
    """Exchange the ids of two tokens, counted in the order of the ids."""
    vocabulary = told["model"]["vocab"]
    names = sorted(vocabulary, key=lambda name: int(vocabulary[name]))
    one, other = names[first], names[second]
    vocabulary[one], vocabulary[other] = vocabulary[other], vocabulary[one]


def tag(key: str, value: str, folder: Path) -> None:
    """Change an entry of step.onnx's metadata."""
    model = onnx.load(folder / "step.onnx")
    for entry in model.metadata_props:
        if entry.key == key:
            entry.value = value
    (folder / "step.onnx").write_bytes(model.SerializeToString(deterministic=True))


def renew_seals(folder: Path) -> None:
    """Let bundle.json name the files' present hashes and sizes: so the fault must be caught, and not the seal."""
    told = read_json(folder / "bundle.json")
    told.pop("seal", None)
    for name, entry in told["files"].items():
        path = folder / name
        entry.update(sha256=sha256_of(path), bytes=path.stat().st_size)
    write_sealed_json(folder / "bundle.json", told)
