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

from recurlm.verify import planted_files
from recurlm.verify.graph_edits import Edit, Part
from recurlm.verify.planted_arithmetic import ARITHMETIC, QUANTIZED, state_not_carried, table_row
from recurlm.verify.planted_sampling import (
    CLOZE_SCORER,
    FILLER,
    FULL,
    GENERATOR,
    PLAIN,
    SAMPLER,
    SCORER,
    first_token_of_the_prompt_skipped,
    output_after_the_token,
    padding_read,
    padding_scored,
    target_is_the_token_itself,
)


@dataclass(frozen=True)
class Fault:
    """One fault: its name, and what plants it in a bundle's folder."""

    name: str
    plant: Callable[[Path], None]


def catalogue(objective: str, precision: str, token: int, state: dict[str, Any]) -> list[Fault]:
    """All faults of a kind of bundle.

    Args:
        token: a frequent one of the held-out text.
        state: the bundle's `state_spec`.
    """
    cloze, faults = objective == "cloze", []
    arithmetic = [*ARITHMETIC, *([] if precision == "fp32" else QUANTIZED)]
    row = partial(table_row, token=token)
    for place, (file, loop) in (CLOZE_PLACES if cloze else CAUSAL_PLACES).items():
        edits = [*arithmetic, named("one_token_s_row_of_the_table", row), *PLACED.get(place, [])]
        side = place.split()[-1] if cloze and loop is not None else ""
        for name in [key for key in state if key.startswith(side) and not key.endswith("output")]:
            edits.append(named(f"state_{name}_not_carried", partial(state_not_carried, name=name)))
        faults += [Fault(f"{place}: {words(edit)}", partial(edit_file, file, loop, edit)) for edit in edits]
    files = {"filler.onnx": [*SAMPLER, *FILLER]} if cloze else {"generator.onnx": GENERATOR}
    files["scorer.onnx"] = CLOZE_SCORER if cloze else SCORER
    for file, roots in files.items():
        faults += [Fault(f"{file}: {words(edit)}", partial(edit_file, file, None, edit)) for edit in roots]
    return faults + [Fault(name, plant) for name, plant in planted_files.faults(cloze).items()]


def edit_file(file: str, loop: int | None, edit: Edit, folder: Path) -> None:
    """Change one graph of a folder."""
    model = onnx.load(folder / file)
    edit(Part(model, loop))
    onnx.checker.check_model(model)
    (folder / file).write_bytes(model.SerializeToString(deterministic=True))


def named(name: str, edit: Callable[..., None]) -> Edit:
    def renamed(part: Part) -> None:
        edit(part)

    renamed.__name__ = name
    return renamed


def words(edit: Edit) -> str:
    return edit.__name__.replace("_", " ")


CAUSAL_PLACES: dict[str, tuple[str, int | None]] = {
    "step.onnx": ("step.onnx", None),
    "scorer.onnx": ("scorer.onnx", 0),
    "generator.onnx, prompt": ("generator.onnx", 0),
    "generator.onnx, plain loop": ("generator.onnx", 1),
    "generator.onnx, full loop": ("generator.onnx", 2),
}
CLOZE_PLACES: dict[str, tuple[str, int | None]] = {
    "step.onnx": ("step.onnx", None),
    "scorer.onnx, left": ("scorer.onnx", 0),
    "scorer.onnx, right": ("scorer.onnx", 1),
    "filler.onnx, left": ("filler.onnx", 0),
    "filler.onnx, right": ("filler.onnx", 1),
}
PLACED: dict[str, list[Edit]] = {
    "scorer.onnx": [padding_scored, target_is_the_token_itself],
    "generator.onnx, prompt": [first_token_of_the_prompt_skipped, padding_read],
    "generator.onnx, plain loop": PLAIN,
    "generator.onnx, full loop": FULL,
    **{place: [output_after_the_token] for place in CLOZE_PLACES if place != "step.onnx"},
}
