"""Promises of the training loop."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from recurlm.config import Train, Variant
from recurlm.errors import InputError
from recurlm.model import LanguageModel, build
from recurlm.training.batches import Stream
from recurlm.training.loop import train, validation_due
from recurlm.training.progress import Trained
from recurlm.training.step import carry
from recurlm.variants import REGISTRY

SPECIAL = {"bos": 0, "mask": 1}
VOCABULARY = 12


def recipe(**changes: object) -> Train:
    settings = {"epochs": 2, "batch_size": 4, "sequence_length": 8, "num_evals": 3, "precision": "fp32"}
    return Train(**{**settings, **changes})


def counting(length: int = 800) -> np.ndarray:
    """A text with a rule: 2 3 4 … 11 2 3 …"""
    return (np.arange(length) % 10 + 2).astype(np.uint16)


def fresh(name: str = "lstm", **changes: object) -> LanguageModel:
    torch.manual_seed(1)
    block = Variant(**{"cell": name, "embedding_size": 8, "hidden_size": 16, **changes})
    return build(name, block, VOCABULARY)


def run(model: LanguageModel, settings: Train, rates: tuple[float, float] = (0.02, 0.02), validate=None) -> Trained:
    stream = Stream(counting(), settings.batch_size, settings.sequence_length)
    block = Variant(cell="", embedding_size=1, hidden_size=1, muon_lr=rates[0], adamw_lr=rates[1])
    return train(model, stream, SPECIAL, settings, block, validate or (lambda model: 0.0))


@pytest.mark.parametrize("name", REGISTRY)
@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_every_variant_learns_a_rule(name: str, optimizer: str) -> None:
    trained = run(fresh(name), recipe(optimizer=optimizer, epochs=8, num_evals=8))
    losses = [point.train_loss for point in trained.curve]
    assert losses[0] > 1.2
    assert losses[-1] < 0.4 * losses[0]


@pytest.mark.parametrize("name", ["rnn", "bilstm"])
def test_the_same_seed_gives_the_same_weights_and_curve(name: str) -> None:
    settings = recipe()
    runs = []
    for _ in range(2):
        model = fresh(name, dropout=0.3, layers=2)
        trained = run(model, settings, validate=lambda model: model.decoder.bias.detach().sum().item())
        runs.append((trained.curve, {key: value.clone() for key, value in model.state_dict().items()}))
    assert runs[0][0] == runs[1][0]
    assert all(torch.equal(value, runs[1][1][key]) for key, value in runs[0][1].items())


def test_the_weights_that_were_best_on_validation_are_kept() -> None:
    seen: list[dict[str, Tensor]] = []
    losses = iter([3.0, 1.0, 2.0])

    def validate(model: LanguageModel) -> float:
        seen.append({key: value.clone() for key, value in model.state_dict().items()})
        return next(losses)

    model = fresh()
    trained = run(model, recipe(), validate=validate)
    assert trained.best == trained.curve[1]
    kept = model.state_dict()
    assert all(torch.equal(kept[key], value) for key, value in seen[1].items())
    assert not torch.equal(kept["decoder.bias"], seen[2]["decoder.bias"])


def test_the_state_is_carried_from_window_to_window_and_cut_off_from_its_graph() -> None:
    """Reading in windows of 8 with carried state is reading the whole text at once."""
    model = fresh().eval()
    stream = Stream(counting(), 4, 8)
    state, parts = model.initial_state(4), []
    for window in stream:
        logits, after = model(window[:, :-1], state)
        state = carry(model, after)
        assert not any(value.requires_grad for value in state.values())
        parts.append(logits)
    whole, _ = model(torch.cat([window[:, :-1] for window in stream], dim=1), model.initial_state(4))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)


def test_a_cloze_model_carries_its_left_state_and_starts_anew_from_the_right() -> None:
    model = fresh("bilstm")
    _, after = model(torch.full((2, 5), 3), model.initial_state(2))
    carried = carry(model, after)
    assert all(value.any() for name, value in carried.items() if name.startswith("left."))
    assert not any(value.any() for name, value in carried.items() if name.startswith("right."))


def test_a_run_that_diverges_stops_with_one_line() -> None:
    model = fresh("rnn", nonlinearity="relu")
    with torch.no_grad():
        model.decoder.bias.fill_(float("nan"))
    with pytest.raises(InputError, match=r"diverged at step 1: lower the variant's muon_lr and adamw_lr"):
        run(model, recipe())


@given(st.integers(1, 200), st.integers(1, 12))
def test_validations_are_spread_evenly_and_the_last_step_is_one(steps: int, num_evals: int) -> None:
    found: list[int] = []
    for step in range(1, steps + 1):
        if validation_due(num_evals, len(found), step / steps):
            found.append(step)
    assert found[-1] == steps
    assert len(found) == min(steps, num_evals)
    gaps = np.diff([0, *found])
    assert gaps.max() - gaps.min() <= 1


def test_bf16_trains_where_the_machine_has_it_and_is_refused_where_not() -> None:
    settings = recipe(precision="bf16", epochs=4)
    if torch.cpu._is_avx512_bf16_supported():
        trained = run(fresh(), settings)
        assert trained.precision == "bf16"
        assert trained.curve[-1].train_loss < trained.curve[0].train_loss
    else:
        with pytest.raises(InputError, match="bf16"):
            run(fresh(), settings)
