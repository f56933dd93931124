"""Promises of the recipe."""

import pytest
import torch
from torch.optim import AdamW

from recurlm.config import Train, Variant
from recurlm.model import build
from recurlm.training.muon import Muon
from recurlm.training.optimizer import optimizers, precision, rate


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_warms_up_and_decays_towards_zero(schedule) -> None:
    rates = [rate(schedule, step / 100, 0.01, 0.1) for step in range(100)]
    assert 0 < rates[0] < 0.2
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates.index(max(rates)) in range(9, 12)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_a_constant_rate_stays() -> None:
    assert [rate("constant", step / 10, 0.1, 0.0) for step in range(10)] == [1.0] * 10


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_is_updated_by_exactly_one_optimizer(optimizer, tied: bool) -> None:
    model = build("lstm", Variant(cell="lstm", embedding_size=4, hidden_size=6, tie_weights=tied), 9)
    updates = optimizers(model, Train(optimizer=optimizer), 0.01, 0.5)
    updated = [id(p) for update in updates for group in update.param_groups for p in group["params"]]
    assert len(updated) == len(set(updated))
    assert set(updated) == {id(p) for p in model.parameters()}


def test_muon_gets_the_matrices_of_the_recurrence_and_nothing_else() -> None:
    model = build("gru", Variant(cell="gru", embedding_size=4, hidden_size=6, layers=2), 9)
    muon, adamw = optimizers(model, Train(optimizer="muon"), 0.01, 0.5)
    assert isinstance(muon, Muon)
    assert isinstance(adamw, AdamW)
    expected = {id(p) for name, p in model.recurrence.named_parameters() if "weight" in name}
    assert {id(p) for group in muon.param_groups for p in group["params"]} == expected
    assert muon.param_groups[0]["lr"] == 0.01
    assert {group["lr"] for group in adamw.param_groups} == {0.5}


def test_fp32_is_always_to_be_had() -> None:
    assert precision("fp32", torch.device("cpu")) == "fp32"
    assert precision("auto", torch.device("cpu")) in {"fp32", "bf16"}
