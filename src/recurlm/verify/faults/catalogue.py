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

from recurlm.verify.faults import files
from recurlm.verify.faults.arithmetic import ARITHMETIC, QUANTIZED, state_not_carried, table_row
from recurlm.verify.faults.graph_edits import Edit, Part
from recurlm.verify.faults.sampling import PLANTED

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
    return faults + [Fault(name, plant) for name, plant in files.faults(cloze).items()]


def in_graph(name: str, file: str, loop: int | None, edit: Edit) -> Fault:
    def plant(folder: Path) -> None:
        model = onnx.load(folder / file)
        edit(Part(model, loop))
        onnx.checker.check_model(model)
        (folder / file).write_bytes(model.SerializeToString(deterministic=True))

    return Fault(name, plant, file.removesuffix(".onnx"))
