"""Promises of the exported graphs, for every cell, both objectives, residual blocks and states of any rank."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from cells.cases import CASES, CAUSAL, CLOZE, export_settings, make
from configs import LESSON

from recurlm.config import Sampling
from recurlm.export.bundle import never_drawn, write_graphs
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.verify.checks import GREEDY, Comparison, chunked
from recurlm.verify.reference import Reference
from recurlm.verify.sessions import Graphs, pieces

VOCABULARY = 41
SPECIAL = {"bos": 0, "mask": 1, "unk": 2, "eol": None}
MANIFEST = {"special": SPECIAL, "tokenizer_sha256": "0" * 64, "kind": "char", "corpus": {}}
SETTINGS = export_settings(opset=18, ir_version=8)
FREE = Sampling(temperature=1.0, top_k=0, top_p=1.0)
SAMPLINGS = [
    GREEDY,
    FREE,
    Sampling(temperature=0.7, top_k=5, top_p=1.0),
    Sampling(temperature=1.2, top_k=0, top_p=0.8),
    Sampling(temperature=1.0, top_k=9, top_p=0.9),
]


def random_model(name: str) -> LanguageModel:
    torch.manual_seed(5)
    model = make(name, VOCABULARY, embedding_size=6, hidden_size=9, layers=2)
    if name in (*LESSON, "bilstm"):
        for parameter in model.parameters():
            parameter.mul_(3)  # a fresh model's logits are nearly equal, and would hide a wrong state
    return model


class Exported:
    """Each case's model and the folder of its graphs, written when it is first asked for."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.models: dict[str, LanguageModel] = {}

    def __call__(self, name: str) -> tuple[LanguageModel, Path]:
        folder = self.root / name
        if name not in self.models:
            folder.mkdir()
            self.models[name] = random_model(name)
            write_graphs(folder, name, self.models[name], MANIFEST, SETTINGS)
        return self.models[name], folder


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Exported:
    return Exported(tmp_path_factory.mktemp("graphs"))


def sides(exported: Exported, name: str) -> tuple[Reference, Graphs]:
    model, folder = exported(name)
    return Reference(model, never_drawn(SPECIAL, objective_of(model))), Graphs(folder)


def text(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(3, VOCABULARY, shape)


def uniform(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).random(shape, np.float32)


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_generator_draws_the_tokens_of_pytorch(exported, name: str, sampling: Sampling) -> None:
    reference, graphs = sides(exported, name)
    prompts = pieces(text(60), [11, 1, 30])
    agreement = Comparison(reference, graphs, error=1e-5).generated(prompts, uniform(3, 50), sampling)
    assert agreement.tokens == 150
    assert len(agreement.near_ties) <= 1


@pytest.mark.parametrize("name", CAUSAL)
@pytest.mark.parametrize("sampling", SAMPLINGS[:3], ids=str)
def test_chunked_calls_give_the_tokens_of_one_call(exported, name: str, sampling: Sampling) -> None:
    _, graphs = sides(exported, name)
    chunked(graphs, text(5), uniform(90), sampling)


@pytest.mark.parametrize("name", CAUSAL)
def test_prompts_of_different_lengths_in_one_call_give_what_each_gives_alone(exported, name: str) -> None:
    _, graphs = sides(exported, name)
    prompts, lengths, numbers = text(3, 6), np.array([6, 1, 4]), uniform(3, 20)
    padded = np.where(np.arange(6) < lengths[:, None], prompts, 0)
    feeds = {
        "prompt": padded,
        "prompt_length": lengths,
        "max_new_tokens": np.array(20),
        "temperature": np.ones(3, np.float32),
        "top_k": np.zeros(3, np.int64),
        "top_p": np.ones(3, np.float32),
        "uniform": numbers,
    }
    together, together_after = graphs.call("generator", feeds)
    for row, length in enumerate(lengths):
        alone, state = graphs.generate(prompts[row : row + 1, :length], numbers[row : row + 1], FREE)
        assert together["tokens"][row].tolist() == alone["tokens"][0].tolist()
        for key, value in state.items():
            # One row and three are added up in another order, and these weights are large.
            np.testing.assert_allclose(together_after[key][row], value[0], atol=1e-5)


@pytest.mark.parametrize("name", CAUSAL)
def test_the_scorer_gives_pytorchs_log_probabilities_at_any_batch_length_and_chunking(exported, name: str) -> None:
    model, _ = exported(name)
    _, graphs = sides(exported, name)
    tokens, lengths = text(3, 23), np.array([23, 2, 11])
    logits, _ = model(torch.from_numpy(tokens), model.initial_state(3))
    expected = torch.log_softmax(logits, -1)[:, :-1].gather(2, torch.from_numpy(tokens)[:, 1:, None])[..., 0].numpy()
    found, _ = graphs.score(tokens, lengths)
    for row, length in enumerate(lengths):
        np.testing.assert_allclose(found[row, : length - 1], expected[row, : length - 1], rtol=1e-5, atol=1e-5)
        assert not found[row, length - 1 :].any()
    first, state = graphs.score(tokens[:, :9], np.full(3, 9))
    second, _ = graphs.score(tokens[:, 8:], np.full(3, 15), state)
    np.testing.assert_allclose(np.concatenate([first, second], axis=1), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", CLOZE)
@pytest.mark.parametrize("sampling", SAMPLINGS, ids=str)
def test_the_filler_draws_the_tokens_of_pytorch(exported, name: str, sampling: Sampling) -> None:
    reference, graphs = sides(exported, name)
    texts = pieces(text(80), [50, 1, 29])
    agreement = Comparison(reference, graphs, error=1e-5).filled(texts, uniform(3, 50), sampling)
    assert agreement.tokens == 80
    assert len(agreement.near_ties) <= 1


@pytest.mark.parametrize("name", CLOZE)
def test_texts_of_different_lengths_are_filled_and_scored_as_each_alone(exported, name: str) -> None:
    _, graphs = sides(exported, name)
    tokens, lengths = text(3, 12), np.array([12, 1, 7])
    scored, _ = graphs.score(tokens, lengths)
    filled, *_ = graphs.fill(tokens, lengths, uniform(3, 12), GREEDY)
    for row, length in enumerate(lengths):
        alone = tokens[row : row + 1, :length]
        np.testing.assert_allclose(
            scored[row, :length], graphs.score(alone, lengths[row : row + 1])[0][0], rtol=1e-5, atol=1e-5
        )
        assert not scored[row, length:].any()
        expected, *_ = graphs.fill(alone, lengths[row : row + 1], uniform(1, length), GREEDY)
        assert filled[row, :length].tolist() == expected[0].tolist()


@pytest.mark.parametrize("name", CASES)
def test_a_step_gives_pytorchs_gates(exported, name: str) -> None:
    model, folder = exported(name)
    token = text(4)
    state = {name: torch.randn(4, *shape) for name, shape in model.recurrence.state_spec.items()}
    arrays = {name: value.numpy() for name, value in state.items()}
    results, _ = Graphs(folder).call("step", {"token": token}, arrays)
    gates = model.recurrence.gate_activations(model.embed(torch.from_numpy(token)), state)
    assert results.keys() == {"logits", *(f"gate.{gate}" for gate in gates)}
    assert len(gates) > 0 or model.recurrence.gates == 0
    for gate, values in gates.items():
        np.testing.assert_allclose(results[f"gate.{gate}"], values.numpy(), atol=1e-6)


@pytest.mark.parametrize("name", CASES)
def test_files_are_self_contained_pinned_and_name_nothing_of_this_machine(exported, name: str) -> None:
    _, folder = exported(name)
    files = sorted(folder.glob("*.onnx"))
    assert len(files) == 3
    assert not list(folder.glob("*.data"))
    for file in files:
        model = onnx.load(file)
        onnx.checker.check_model(model, full_check=True)
        assert model.ir_version == SETTINGS.ir_version
        assert {(opset.domain, opset.version) for opset in model.opset_import} == {("", SETTINGS.opset)}
        assert {entry.key for entry in model.metadata_props} == {"variant", "tokenizer_sha256", "states"}
        assert not re.search(rb"/[a-z]+/.*\.py|\.py\"", file.read_bytes())


@pytest.mark.parametrize("name", CASES)
def test_batch_and_time_are_dynamic(exported, name: str) -> None:
    _, folder = exported(name)
    for file in folder.glob("*.onnx"):
        graph = onnx.load(file).graph
        for value in (*graph.input, *graph.output):
            shape = value.type.tensor_type.shape.dim
            if shape:
                assert shape[0].dim_param, f"{file.name}: {value.name} has a fixed batch"
            if value.name in {"prompt", "tokens", "uniform", "filled", "log_prob"}:
                assert shape[1].dim_param, f"{file.name}: {value.name} has a fixed time"


def test_an_export_of_the_same_model_has_the_same_bytes(tmp_path: Path) -> None:
    """In a process without the tests' checks of shapes, which read some at random and shift the names of values."""
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
    script = (
        "import sys; from pathlib import Path; from test_graphs import *\n"
        "for folder in sys.argv[1:]: write_graphs(Path(folder), 'lstm', random_model('lstm'), MANIFEST, SETTINGS)"
    )
    here = Path(__file__).parent
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here), str(here.parent)])}
    command = [sys.executable, "-c", script, str(tmp_path / "one"), str(tmp_path / "two")]
    subprocess.run(command, env=environment, check=True, capture_output=True)
    files = sorted((tmp_path / "one").iterdir())
    assert len(files) == 4
    for file in files:
        assert file.read_bytes() == (tmp_path / "two" / file.name).read_bytes()
