"""The catalogue of planted faults: each changes one thing in a copy of a bundle, and `verify` must catch it.

A fault of the arithmetic is planted in one place at a time: step.onnx, or one loop of another graph, the others staying
right. Not in the catalogue is what no call can show: a strict comparison where top-p's share is never hit exactly, an
addition in another order in fp32, which is float error, and a clamp behind which no number lies.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx

from recurlm.storage import read_json, sha256_of, write_json, write_sealed_json
from recurlm.verify.faults.arithmetic import ARITHMETIC, QUANTIZED, state_not_carried, table_row
from recurlm.verify.faults.graph_edits import Edit, Part
from recurlm.verify.faults.sampling import PLANTED

Change = Callable[[dict[str, Any]], None]
# Where a token is read: the graph, which of its loops, and what else is planted there.
CAUSAL_PLACES: dict[str, tuple[str, int | None, str]] = {
    "step.onnx": ("step.onnx", None, "step"),
    "scorer.onnx": ("scorer.onnx", 0, "scorer loop"),
    "generator.onnx, prompt": ("generator.onnx", 0, "prompt"),
    "generator.onnx, plain loop": ("generator.onnx", 1, "plain loop"),
    "generator.onnx, full loop": ("generator.onnx", 2, "full loop"),
}
CLOZE_PLACES: dict[str, tuple[str, int | None, str]] = {
    "step.onnx": ("step.onnx", None, "step"),
    "scorer.onnx, left": ("scorer.onnx", 0, "side"),
    "scorer.onnx, right": ("scorer.onnx", 1, "side"),
    "filler.onnx, left": ("filler.onnx", 0, "side"),
    "filler.onnx, right": ("filler.onnx", 1, "side"),
}


@dataclass(frozen=True)
class Fault:
    """One fault: its name, and what plants it in a bundle's folder."""

    name: str
    plant: Callable[[Path], None]
    graph: str = ""  # that it changes: "step"; none in what a bundle says of itself


def catalogue(objective: str, precision: str, token: int, state: dict[str, Any]) -> list[Fault]:
    """All faults of a kind of bundle.

    Args:
        token: a frequent one of the held-out text.
        state: the bundle's `state_spec`.
    """
    cloze, faults = objective == "cloze", []
    for place, (file, loop, more) in (CLOZE_PLACES if cloze else CAUSAL_PLACES).items():
        edits = ARITHMETIC | ({} if precision == "fp32" else QUANTIZED) | PLANTED.get(more, {})
        edits["one token's row of the table"] = partial(table_row, token=token)
        side = place.split()[-1] if more == "side" else ""
        for name in [key for key in state if key.startswith(side) and not key.endswith("output")]:
            edits[f"state {name} not carried"] = partial(state_not_carried, name=name)
        faults += [in_graph(f"{place}: {name}", file, loop, edit) for name, edit in edits.items()]
    for frame in ("filler.onnx", "cloze scorer.onnx") if cloze else ("generator.onnx", "scorer.onnx"):
        file = frame.removeprefix("cloze ")
        faults += [in_graph(f"{file}: {name}", file, None, edit) for name, edit in PLANTED[frame].items()]
    return faults + [Fault(name, plant) for name, plant in in_files(cloze).items()]


def in_graph(name: str, file: str, loop: int | None, edit: Edit) -> Fault:
    def plant(folder: Path) -> None:
        model = onnx.load(folder / file)
        edit(Part(model, loop))
        onnx.checker.check_model(model)
        (folder / file).write_bytes(model.SerializeToString(deterministic=True))

    return Fault(name, plant, file.removesuffix(".onnx"))


def in_files(cloze: bool) -> dict[str, Callable[[Path], None]]:
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
        description["sides exchanged"] = exchange_sides
    tokenizer: dict[str, Change] = {
        "two pieces exchanged": partial(exchange, first=-1, second=-2),
        "a special token exchanged with a piece": partial(exchange, first=0, second=-1),
        "lower case": lambda content: content.update(normalizer={"type": "Lowercase"}),
        "decoded with spaces": lambda content: content.update(
            decoder={"type": "WordPiece", "prefix": "##", "cleanup": False}
        ),
    }
    planted: dict[str, Callable[[Path], None]] = {
        "step.onnx: another variant in its metadata": partial(tag, "variant", "other"),
        "step.onnx: states in another order in its metadata": partial(tag, "states", "[]"),
    }
    for file, changes in (("bundle.json", description), ("tokenizer.json", tokenizer)):
        planted |= {f"{file}: {name}": partial(edit, file, change) for name, change in changes.items()}
    return planted


def edit(file: str, change: Change, folder: Path) -> None:
    content = read_json(folder / file)
    change(content)
    write_json(folder / file, content)


def exchange_sides(content: dict[str, Any]) -> None:
    names, values = list(content["directions"]), list(content["directions"].values())
    content["directions"] = dict(zip(names, reversed(values), strict=True))


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
