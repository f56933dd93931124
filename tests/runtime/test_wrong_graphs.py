"""Promises of a sealed bundle whose graphs are others than they should be: one line each, at load or at the call."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_description import rewrite_graph
from tiny_bundles import TinyBundles

from recurlm.errors import InputError
from recurlm.runtime import Filler, Generator, Scorer
from recurlm.runtime.session import GraphError

Change = Callable[[onnx.ModelProto], None]
TEXT = "king or night"
OTHER = "not the graph that the JSON file beside it describes"


def behind(name: str, kind: str, *values: np.ndarray, **attributes: int) -> Change:
    """A node between an output and what made it."""

    def change(model: onnx.ModelProto) -> None:
        graph = model.graph
        for node in graph.node:
            for names in (node.input, node.output):
                names[:] = ["inner" if each == name else each for each in names]
        weights = [numpy_helper.from_array(value, f"other{place}") for place, value in enumerate(values)]
        graph.initializer.extend(weights)
        graph.node.append(helper.make_node(kind, ["inner", *(weight.name for weight in weights)], [name], **attributes))

    return change


def wide_top_p(model: onnx.ModelProto) -> None:
    for value in model.graph.input:
        if value.name == "top_p":
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for node in model.graph.node:
        node.input[:] = ["narrow" if name == "top_p" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Cast", ["top_p"], ["narrow"], to=TensorProto.FLOAT))


def without(output: str) -> Change:
    def change(model: onnx.ModelProto) -> None:
        kept = [value for value in model.graph.output if value.name != output]
        del model.graph.output[:]
        model.graph.output.extend(kept)

    return change


def huge_weight(model: onnx.ModelProto) -> None:
    max(model.graph.initializer, key=lambda weight: len(weight.raw_data)).dims[0] = 2**40


def whole(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def copy(bundles: TinyBundles, folder: Path, variant: str = "lstm") -> Path:
    return Path(shutil.copytree(bundles(variant), folder / variant))


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("generator.onnx", wide_top_p, OTHER),
        ("generator.onnx", without("tokens"), OTHER),
        ("generator.onnx", without("next_seen"), OTHER),
        ("scorer.onnx", without("log_prob"), OTHER),
        ("scorer.onnx", huge_weight, "cannot run it"),
    ],
)
def test_a_graph_that_cannot_serve_is_refused_at_load(
    bundles: TinyBundles, tmp_path: Path, file: str, change: Change, message: str
) -> None:
    folder = copy(bundles, tmp_path)
    rewrite_graph(folder, file, change)
    with pytest.raises(InputError, match=rf"^\S+{file}: .*{message}[^\n]*$"):
        (Generator if file == "generator.onnx" else Scorer).from_bundle(folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (behind("tokens", "Sub", whole(1000)), r"'tokens' holds -\d+, and tokens are below 300"),
        (behind("tokens", "Add", whole(300)), r"'tokens' holds \d+, and tokens are below 300"),
        (behind("tokens", "Concat", axis=1), None),
        (
            behind("tokens", "Slice", whole(0), whole(0), whole(1)),
            r"'tokens' has the shape \(1, 0\), expected \(1, 1\)",
        ),
        (behind("tokens", "Reshape", whole(7)), "it does not run "),
    ],
)
def test_tokens_that_are_none_are_one_line(
    bundles: TinyBundles, tmp_path: Path, change: Change, message: str | None
) -> None:
    folder = copy(bundles, tmp_path)
    rewrite_graph(folder, "generator.onnx", change)
    generator = Generator.from_bundle(folder)
    if message is None:  # the same tokens
        assert generator.generate(TEXT, 5, seed=1) == Generator.from_bundle(bundles("lstm")).generate(TEXT, 5, seed=1)
        return
    with pytest.raises(GraphError, match=rf"^\S+generator\.onnx: {message}[^\n]*$"):
        generator.generate(TEXT, 5, seed=1)


def test_filled_tokens_that_are_none_are_one_line(bundles: TinyBundles, tmp_path: Path) -> None:
    folder = copy(bundles, tmp_path, "bilstm")
    rewrite_graph(folder, "filler.onnx", behind("filled", "Sub", whole(300)))
    with pytest.raises(GraphError, match=r"^\S+filler\.onnx: 'filled' holds -[0-9]+, and tokens are below 300$"):
        Filler.from_bundle(folder).fill("to be or ___")


@pytest.mark.parametrize("variant", ["lstm", "bilstm"])
def test_a_score_has_a_log_probability_for_each_token(bundles: TinyBundles, tmp_path: Path, variant: str) -> None:
    for ends, message in ((1, "'log_prob' has the shape"), (-1, "")):
        folder = copy(bundles, tmp_path / str(ends), variant)
        rewrite_graph(folder, "scorer.onnx", behind("log_prob", "Slice", whole(0), whole(ends), whole(1)))
        with pytest.raises(GraphError, match=rf"^\S+scorer\.onnx: {message}[^\n]*$"):
            Scorer.from_bundle(folder).score(TEXT)
