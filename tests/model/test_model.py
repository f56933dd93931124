"""The shell around every recurrence: shapes, tied weights, and a file that gives the same model back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from configs import PARAMS, model_config
from safetensors.torch import load_file

from recurlm.config import ModelConfig
from recurlm.errors import InputError
from recurlm.model import LanguageModel, best_device, build, count_parameters, load, save
from recurlm.objective import objective_of

VOCABULARY = 13
every_name = pytest.mark.parametrize("name", PARAMS.variants)
either_tied = pytest.mark.parametrize("tied", [True, False])


def config_of(name: str, **changes: object) -> ModelConfig:
    return model_config(name, **({"embedding_size": 5, "hidden_size": 7, "dropout": 0.4} | changes))


def make(name: str, **changes: object) -> LanguageModel:
    torch.manual_seed(1)
    return build(name, config_of(name, **changes), VOCABULARY).eval()


@every_name
@either_tied
def test_a_chunk_is_read_as_step_by_step_where_a_model_is_causal(name: str, tied: bool) -> None:
    model = make(name, tie_weights=tied)
    tokens = torch.randint(VOCABULARY, (3, 7))
    state = {key: torch.randn(3, *shape) for key, shape in model.recurrence.state_spec.items()}
    logits, end = model(tokens, state)
    assert logits.shape == (3, 7, VOCABULARY)
    steps = []
    for t in range(7):
        step, state = model.step(tokens[:, t], state)
        steps.append(step)
    assert steps[0].shape == (3, VOCABULARY)
    if objective_of(model).name == "causal":
        torch.testing.assert_close(torch.stack(steps, dim=1), logits, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(state, end, rtol=1e-5, atol=1e-5)


@every_name
@pytest.mark.parametrize("hidden", [5, 7])
def test_tied_weights_are_one_tensor_and_count_once(name: str, hidden: int) -> None:
    tied, untied = make(name, hidden_size=hidden), make(name, hidden_size=hidden, tie_weights=False)
    assert tied.decoder.weight is tied.embedding.weight
    recurrent = count_parameters(tied.recurrence)
    width = tied.recurrence.output_size
    projection = 0 if width == 5 else width * 5 + 5
    assert count_parameters(tied) == recurrent + VOCABULARY * 5 + projection + VOCABULARY
    assert count_parameters(untied) == recurrent + VOCABULARY * 5 + width * VOCABULARY + VOCABULARY


@every_name
@either_tied
def test_a_saved_model_comes_back_the_same_and_ready_to_evaluate(name: str, tied: bool, tmp_path: Path) -> None:
    model = make(name, tie_weights=tied).requires_grad_(False)
    save(tmp_path, model, name, config_of(name, tie_weights=tied))
    back = load(tmp_path)
    tokens = torch.randint(VOCABULARY, (2, 6))
    assert torch.equal(back(tokens, back.initial_state(2))[0], model(tokens, model.initial_state(2))[0])
    assert not back.training
    assert not any(parameter.requires_grad for parameter in back.parameters())
    assert (back.decoder.weight is back.embedding.weight) == tied
    assert ("decoder.weight" in load_file(tmp_path / "model.safetensors")) == (not tied)


@every_name
def test_the_same_seed_writes_the_same_bytes(name: str, tmp_path: Path) -> None:
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        folder.mkdir()
        save(folder, make(name), name, config_of(name))
    for file in ("model.safetensors", "model.json"):
        assert (folders[0] / file).read_bytes() == (folders[1] / file).read_bytes()


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save(tmp_path, make("lstm"), "lstm", config_of("lstm"))
    return tmp_path


@pytest.mark.parametrize("file", ["model.safetensors", "model.json"])
def test_a_missing_file_is_named(saved: Path, file: str) -> None:
    (saved / file).unlink()
    with pytest.raises(InputError, match=f"{file}: no such file"):
        load(saved)


@pytest.mark.parametrize("place", [0, 8, 200, -1])
def test_one_changed_bit_in_the_weights_is_noticed(saved: Path, place: int) -> None:
    path = saved / "model.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: corrupted"):
        load(saved)


def test_weights_that_do_not_fit_their_description_are_named(saved: Path) -> None:
    path = saved / "model.json"
    description = json.loads(path.read_text(encoding="utf-8"))
    description["config"]["hidden_size"] = 8
    path.write_text(json.dumps(description), encoding="utf-8")
    with pytest.raises(InputError, match="do not fit"):
        load(saved)


def test_auto_takes_cuda_exactly_where_there_is_one() -> None:
    assert best_device("auto").type == ("cuda" if torch.cuda.is_available() else "cpu")
    assert best_device("cpu").type == "cpu"


def test_asking_for_cuda_where_there_is_none_gets_one_line() -> None:
    if torch.cuda.is_available():
        assert best_device("cuda").type == "cuda"
    else:
        with pytest.raises(InputError, match=r"train\.device is 'cuda', and this machine has none"):
            best_device("cuda")
