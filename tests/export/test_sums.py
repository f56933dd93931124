"""Promises of the form that sums are brought into: the same values from fewer products and fewer bytes."""

from __future__ import annotations

from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from cells.cases import CAUSAL, export_settings, make
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from recurlm.export.assemble import to_model
from recurlm.export.graphs import Builder, ExportCache
from recurlm.export.sums import simplify
from recurlm.model import LanguageModel

VOCABULARY = 13


def random_model(name: str, hidden_size: int = 9) -> LanguageModel:
    torch.manual_seed(3)
    model = make(name, VOCABULARY, embedding_size=6, hidden_size=hidden_size, layers=2)
    for parameter in model.parameters():
        parameter.data.normal_(std=0.4)
    return model


@cache
def _traced(name: str, hidden_size: int) -> onnx.GraphProto:
    cache = ExportCache()
    assert Builder(random_model(name, hidden_size), [], export_settings(), cache=cache).gated_step.node
    (graph,) = cache.traces.values()
    return graph


def traced(name: str, hidden_size: int = 9) -> onnx.GraphProto:
    """A copy of a random model's step, for a test to change: tracing takes long."""
    copy = onnx.GraphProto()
    copy.CopyFrom(_traced(name, hidden_size))
    return copy


def run(graph: onnx.GraphProto, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    model = to_model(graph, 18, 8, {}).SerializeToString()
    return onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"]).run(None, feeds)


def products(graph: onnx.GraphProto) -> int:
    return sum(node.op_type in ("MatMul", "Gemm") for node in graph.node)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("largest_table", [10**6, 0], ids=["folded", "not folded"])
def test_a_step_stays_what_it_was(name: str, largest_table: int) -> None:
    before, after = traced(name), traced(name)
    simplify(after, largest_table)
    spec = random_model(name).recurrence.state_spec
    random = np.random.default_rng(0)
    feeds = {f"state.{key}": random.standard_normal((3, *shape)).astype(np.float32) for key, shape in spec.items()}
    feeds["token"] = np.array([0, 5, 12])
    for old, new in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
    # Linear attention adds up no products.
    fewer = largest_table and "linear_attention" not in name
    assert products(after) < products(before) if fewer else products(after) <= products(before)
    linear = sum(node.op_type == "Gemm" for node in before.node)  # becomes a product and an addition
    assert len(after.node) <= len(before.node) + linear


def test_a_folded_step_reads_no_embedding_and_an_unfolded_one_still_shares_it_with_the_decoder() -> None:
    folded, unfolded = traced("lstm"), traced("lstm")
    simplify(folded, 10**6)
    simplify(unfolded, 0)
    tables = [weight for weight in folded.initializer if list(weight.dims) == [VOCABULARY, 4 * 9]]
    assert len(tables) == 1
    shared = [weight for weight in unfolded.initializer if list(weight.dims) == [VOCABULARY, 6]]
    assert len(shared) == 1


@pytest.mark.parametrize("name", ["gru", "lstm"])
def test_weights_that_a_step_and_its_gates_both_read_are_transposed_once_for_all_whatever_their_size(name: str) -> None:
    """torch's exporter has a size above which it folds no weight that is read in two places."""
    assert max(matrix.numel() for matrix in random_model(name, 96).recurrence.recurrent_matrices()) > 8192
    graph = traced(name, hidden_size=96)
    assert any(output.name.startswith("gate.") for output in graph.output)
    assert "Transpose" not in {node.op_type for node in graph.node}


def test_the_products_of_a_sum_become_one_and_say_what_it_was_made_of() -> None:
    origins = simplify(traced("lstm"), 10**6)
    assert max(len(origin.parts) for origin in origins.values()) == 2  # layer 1: its input's and its state's


TERMS = ["product a", "product b", "row", "bias", "value"]


@given(st.lists(st.sampled_from(TERMS), min_size=1, max_size=6), st.booleans(), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_any_sum_in_any_order_stays_what_it_was(terms: list[str], left_first: bool, seed: int) -> None:
    random = np.random.default_rng(seed)
    nodes = [helper.make_node("Gather", ["table", "token"], ["x"], axis=0)]
    weights = {"table": random.standard_normal((5, 3)).astype(np.float32)}
    total = ""
    for number, term in enumerate(terms):
        name = f"t{number}"
        if term == "bias":
            weights[name] = random.standard_normal(4).astype(np.float32)
        elif term == "value":
            nodes.append(helper.make_node("Tanh", ["c"], [name]))
        else:
            source = {"product a": "a", "product b": "b", "row": "x"}[term]
            weights[f"w{number}"] = random.standard_normal((3, 4)).astype(np.float32)
            nodes.append(helper.make_node("MatMul", [source, f"w{number}"], [name]))
        if total:
            pair = [total, name] if left_first else [name, total]
            nodes.append(helper.make_node("Add", pair, [f"s{number}"]))
        total = f"s{number}" if total else name
    nodes += [helper.make_node("Add", [total, "c"], ["y"]), helper.make_node("Sigmoid", ["y"], ["z"])]
    value = helper.make_tensor_value_info
    inputs = [value("token", TensorProto.INT64, ["n"]), value("c", TensorProto.FLOAT, ["n", 4])]
    inputs += [value(name, TensorProto.FLOAT, ["n", 3]) for name in "ab"]
    outputs = [value(name, TensorProto.FLOAT, ["n", 4]) for name in "yz"]
    initializers = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    before = helper.make_graph(nodes, "sum", inputs, outputs, initializers)
    after = onnx.GraphProto()
    after.CopyFrom(before)
    simplify(after, 10**6)
    feeds = {"token": np.array([4, 0]), "c": random.standard_normal((2, 4)).astype(np.float32)}
    feeds |= {name: random.standard_normal((2, 3)).astype(np.float32) for name in "ab"}
    for old, new in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=1e-5)
    apart = " ".join(terms[len_of_sum(terms) :]).count("product")
    assert products(after) <= 1 + apart


def len_of_sum(terms: list[str]) -> int:
    """How many terms come before one that is an addition of its own, as all after it are: a value, a second row."""
    if terms[:2] == ["bias", "bias"]:
        return 0
    rows = [place for place, term in enumerate(terms) if term == "row"]
    return min([terms.index("value") if "value" in terms else len(terms), *rows[1:2]])
