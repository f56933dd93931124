"""A bundle whose states are matrices and tensors: each state is reshaped at the inputs and outputs of its graphs.

Its texts and scores are those of the bundle that it was made from.
"""

from __future__ import annotations

import json
import math
import shutil
from itertools import cycle
from pathlib import Path

import onnx
from onnx import helper

from recurlm.storage import sha256_of, write_sealed_json

SHAPES = [(3, 4), (2, 3, 2), (12,), (1, 12)]  # of 12 hidden units


def with_matrix_states(bundle: Path, target: Path) -> Path:
    """Copy a bundle, and give each of its states another rank."""
    shutil.copytree(bundle, target)
    description = json.loads((target / "bundle.json").read_text())
    shapes = dict(zip(description["state_spec"], cycle(SHAPES), strict=False))
    for path in target.glob("*.onnx"):
        model = onnx.load(path)
        for name, shape in shapes.items():
            assert math.prod(shape) == math.prod(description["state_spec"][name])
            _reshape(model.graph, name, shape)
        onnx.checker.check_model(model)
        path.write_bytes(model.SerializeToString())
        description["files"][path.name] = {"sha256": sha256_of(path), "bytes": path.stat().st_size}
    description["state_spec"] = {name: list(shape) for name, shape in shapes.items()}
    del description["seal"]
    write_sealed_json(target / "bundle.json", description)
    return target


def _reshape(graph: onnx.GraphProto, name: str, shape: tuple[int, ...]) -> None:
    before, after = f"state.{name}", f"next_state.{name}"
    for value in [*graph.input, *graph.output]:
        if value.name in (before, after):
            tensor = value.type.tensor_type
            batch = tensor.shape.dim[0].dim_param
            value.CopyFrom(helper.make_tensor_value_info(value.name, tensor.elem_type, [batch, *shape]))
    if any(value.name == before for value in graph.input):
        _rename(graph, before, f"{before}.flat")
        graph.node.insert(0, helper.make_node("Flatten", [before], [f"{before}.flat"], axis=1))
    if any(value.name == after for value in graph.output):
        _rename(graph, after, f"{after}.flat")
        size = helper.make_tensor(f"{after}.shape", onnx.TensorProto.INT64, [1 + len(shape)], [0, *shape])
        graph.initializer.append(size)
        graph.node.append(helper.make_node("Reshape", [f"{after}.flat", size.name], [after]))


def _rename(graph: onnx.GraphProto, name: str, new: str) -> None:
    """Rename a value wherever nodes read or write it, in inner graphs too."""
    for node in graph.node:
        node.input[:] = [new if value == name else value for value in node.input]
        node.output[:] = [new if value == name else value for value in node.output]
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                _rename(attribute.g, name, new)
