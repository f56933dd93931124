"""The token heat map: states of any name and rank, in either direction, from a bundle's step graph."""

from __future__ import annotations

import base64
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from recurlm.report import heat_map
from recurlm.report.heat_map import StateTrace, quantize_state, run_steps, shown_states
from recurlm.report.results import OBJECTIVES
from recurlm.runtime import GraphSession

SPEC = {"memory": (2, 3)}
TOKENS = [1, 2, 3]


@pytest.fixture(scope="module")
def summing(tmp_path_factory: pytest.TempPathFactory) -> GraphSession:
    """A step graph whose matrix state adds up the tokens; its logits are that state."""
    inputs = [
        helper.make_tensor_value_info("token", TensorProto.INT64, ["batch"]),
        helper.make_tensor_value_info("state.memory", TensorProto.FLOAT, ["batch", 2, 3]),
    ]
    outputs = [
        helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 6]),
        helper.make_tensor_value_info("next_state.memory", TensorProto.FLOAT, ["batch", 2, 3]),
    ]
    nodes = [
        helper.make_node("Cast", ["token"], ["number"], to=TensorProto.FLOAT),
        helper.make_node("Add", ["state.memory", "number"], ["next_state.memory"]),
        helper.make_node("Flatten", ["next_state.memory"], ["logits"]),
    ]
    graph = helper.make_graph(nodes, "summing", inputs, outputs)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    onnx.checker.check_model(model)
    path = tmp_path_factory.mktemp("graph") / "step.onnx"
    onnx.save_model(model, path)
    return GraphSession(path, SPEC)


def values(trace: StateTrace) -> Any:
    """The activations [token, unit] that a trace stores."""
    levels = np.frombuffer(base64.b64decode(trace.values), np.int8).reshape(-1, trace.units)
    return levels / heat_map.LEVELS * trace.scale


def trace(summing: GraphSession, objective: str, directions: dict[str, list[str]]) -> heat_map.TokenTrace:
    """The heat map's trace of a variant with the summing graph, of all tokens but the first."""
    scorer = SimpleNamespace(run=lambda names, feeds: ({"log_prob": np.log([[0.5, 0.25, 0.125]])}, {}))
    sessions = {"step.onnx": summing, "scorer.onnx": scorer}
    bundle: Any = SimpleNamespace(
        session=lambda name, inputs, threads: sessions[name],
        vocabulary=SimpleNamespace(text=lambda tokens: f"<{tokens[0]}>"),
    )
    description = {"state_spec": {"memory": [2, 3]}, **({"directions": directions} if directions else {})}
    (found,) = [each for each in OBJECTIVES if each.name == objective]
    result: Any = SimpleNamespace(name="any", bundle=SimpleNamespace(description=description), objective=found)
    return heat_map._trace(result, bundle, TOKENS, slice(1, 3))


def test_a_state_of_any_rank_is_flattened_to_time_and_units(summing: GraphSession) -> None:
    logits, states = run_steps(summing, TOKENS)
    assert states["memory"].tolist() == [[1.0] * 6, [3.0] * 6, [6.0] * 6]
    assert logits.tolist() == states["memory"].tolist()


def test_without_directions_all_states_read_from_the_left(summing: GraphSession) -> None:
    made = trace(summing, "causal", {})
    assert made.unit == "bits"
    assert made.likeliest == ["<0>", "<0>"]
    assert made.bits == pytest.approx([np.log2(6)] * 2, abs=1e-3)
    assert values(made.states[0]) == pytest.approx(np.array([[3.0] * 6, [6.0] * 6]), abs=0.05)


def test_a_state_that_reads_from_the_right_holds_what_follows(summing: GraphSession) -> None:
    made = trace(summing, "cloze", {"left": [], "right": ["memory"]})
    assert made.unit == "pseudo-bits"
    assert made.likeliest == []
    assert made.bits == [2.0, 3.0]
    assert values(made.states[0]) == pytest.approx(np.array([[5.0] * 6, [3.0] * 6]), abs=0.05)


def test_the_first_state_of_each_layer_is_shown_whatever_its_name() -> None:
    layers = {"layer0.C": (4, 8, 8), "layer0.n": (4, 8), "layer1.C": (4, 8, 8)}
    assert shown_states(layers) == ["layer0.C", "layer1.C"]
    assert shown_states({"left.layer0.h": (8,), "left.layer0.c": (8,), "right.layer0.h": (8,)}) == [
        "left.layer0.h",
        "right.layer0.h",
    ]
    assert shown_states({"left.layer0.h": (8,), "left.output": (8,)}) == ["left.layer0.h"]
    assert shown_states({"a": (3,), "b": (3,)}) == ["a"]
    assert shown_states({}) == []


def test_a_large_state_is_stored_in_part() -> None:
    stored = quantize_state("memory", np.ones((5, heat_map.LARGEST_STATE + 1), np.float32))
    assert stored.units == heat_map.LARGEST_STATE
    assert len(base64.b64decode(stored.values)) == 5 * heat_map.LARGEST_STATE
