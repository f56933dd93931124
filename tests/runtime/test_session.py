"""Promises of GraphSession: it carries states of any rank from call to call, with and without a bundle."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from matrix_states import with_matrix_states
from tiny_bundles import TinyBundles

from recurlm.errors import InputError
from recurlm.runtime import Bundle, Filler, Generator, GraphSession, Scorer
from recurlm.runtime.session import pad_batch

TEXT = "king or night\nthe sea"


@pytest.fixture(scope="module")
def matrix_lstm(bundles: TinyBundles, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return with_matrix_states(bundles("lstm"), tmp_path_factory.mktemp("matrix") / "lstm")


def test_states_of_any_rank_generate_and_score_the_same(bundles: TinyBundles, matrix_lstm: Path) -> None:
    flat, matrix = Generator.from_bundle(bundles("lstm")), Generator.from_bundle(matrix_lstm)
    assert {len(shape) for shape in matrix.bundle.state_spec.values()} == {1, 2, 3}
    assert matrix.generate(TEXT, 300, seed=1) == flat.generate(TEXT, 300, seed=1)
    assert matrix.generate_batch([TEXT, "", "the "], 60, seed=1) == flat.generate_batch([TEXT, "", "the "], 60, seed=1)
    assert matrix.score(TEXT * 300) == flat.score(TEXT * 300)


def test_a_cloze_model_with_states_of_any_rank_fills_and_scores_the_same(bundles: TinyBundles, tmp_path: Path) -> None:
    flat = Filler.from_bundle(bundles("bilstm"))
    matrix = Filler.from_bundle(with_matrix_states(bundles("bilstm"), tmp_path / "bilstm"))
    assert matrix.fill("to be or ___ the sea") == flat.fill("to be or ___ the sea")
    assert matrix.score(TEXT) == flat.score(TEXT)


def test_steps_add_up_to_the_scorers_log_probabilities(matrix_lstm: Path) -> None:
    """A folder of graphs is enough: no bundle.json is read."""
    state_spec = json.loads((matrix_lstm / "bundle.json").read_text())["state_spec"]
    tokens = np.array([[0, 5, 9, 17, 20], [0, 30, 2, 8, 7]])
    step = GraphSession(matrix_lstm / "step.onnx", state_spec)
    state, log_probs = step.zero_state(2), []
    for time in range(4):
        results, state = step.run(None, {"token": tokens[:, time]}, state)
        logits = results["logits"].astype(np.float64)
        log_probs.append((logits - np.log(np.exp(logits).sum(1, keepdims=True)))[[0, 1], tokens[:, time + 1]])
    scorer = GraphSession(matrix_lstm / "scorer.onnx", state_spec, threads=2)
    scored, final = scorer.run(["log_prob"], {"tokens": tokens, "length": np.array([5, 5])})
    np.testing.assert_allclose(np.stack(log_probs, axis=1), scored["log_prob"], atol=1e-5)
    assert final.keys() == state.keys() == state_spec.keys()
    for name, shape in state_spec.items():
        assert state[name].shape == final[name].shape == (2, *shape)
        np.testing.assert_allclose(state[name], final[name], atol=1e-6)


def test_a_state_that_is_left_out_is_zero(bundles: TinyBundles) -> None:
    bundle = Bundle.open(bundles("lstm"))
    for name, feeds in {
        "step.onnx": {"token": np.array([3, 4, 5])},
        "scorer.onnx": {"tokens": np.array([[3, 4], [5, 6]]), "length": np.array([2, 2])},
    }.items():
        session = bundle.session(name, set(feeds), None)
        batch = len(next(iter(feeds.values())))
        for left_out, zero in zip(
            session.run(None, feeds), session.run(None, feeds, session.zero_state(batch)), strict=True
        ):
            assert left_out.keys() == zero.keys()
            assert all(np.array_equal(left_out[key], zero[key]) for key in zero)


def test_a_session_names_its_outputs_and_zero_states(bundles: TinyBundles) -> None:
    session = GraphSession(bundles("lstm") / "step.onnx", Bundle.open(bundles("lstm")).state_spec)
    assert session.output_names == (
        "logits",
        *(f"gate.layer{layer}.{gate}" for layer in (0, 1) for gate in ("input", "forget", "output")),
    )
    assert {name: zeros.shape for name, zeros in session.zero_state(3).items()} == {
        f"layer{layer}.{name}": (3, 12) for layer in (0, 1) for name in ("h", "c")
    }


def test_a_graph_without_state_has_none(bundles: TinyBundles) -> None:
    session = GraphSession(bundles("bilstm") / "scorer.onnx", {})
    _, state = session.run(None, {"tokens": np.array([[0, 3, 4]]), "length": np.array([3])})
    assert state == session.zero_state(1) == {}
    assert Scorer.from_bundle(bundles("bilstm")).session.state_spec == {}


@pytest.mark.parametrize("state_spec", [{}, {"layer0.h": [12]}, {"h": [12]}])
def test_another_state_than_the_graphs_is_refused(bundles: TinyBundles, state_spec: dict[str, list[int]]) -> None:
    with pytest.raises(InputError, match="not the graph that the JSON file beside it describes"):
        GraphSession(bundles("lstm") / "step.onnx", state_spec)


def test_other_inputs_than_the_graphs_are_refused(bundles: TinyBundles) -> None:
    with pytest.raises(InputError, match="not the graph that the JSON file beside it describes"):
        GraphSession(bundles("bilstm") / "scorer.onnx", {}, inputs={"tokens"})


def test_a_missing_graph_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"step\.onnx: onnxruntime .* cannot run it"):
        GraphSession(tmp_path / "step.onnx", {})


def test_a_batch_is_padded_at_the_right() -> None:
    tokens, length = pad_batch([[4, 5], [6], []])
    assert tokens.tolist() == [[4, 5], [6, 0], [0, 0]]
    assert (tokens.dtype, length.tolist()) == (np.int64, [2, 1, 0])
