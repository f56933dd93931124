"""Promises of the optimizers, the schedule and the precision."""

import pytest
import torch
from configs import PARAMS, model_config
from torch.optim import AdamW

from recurlm.config import TrainOptimizer, TrainSchedule, override
from recurlm.model import build
from recurlm.training.optimizer import Muon, lr_scale, optimizers, precision


def optimizer(name: str) -> TrainOptimizer:
    return override(PARAMS.train.optimizer, {"name": name})


def schedule_of(name: str, warmup: float) -> TrainSchedule:
    return TrainSchedule(name=name, warmup_ratio=warmup)


@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_the_rate_warms_up_and_decays_towards_zero(schedule) -> None:
    rates = [lr_scale(schedule_of(schedule, 0.1), step / 100, 0.01) for step in range(100)]
    assert 0 < rates[0] < 0.2
    assert max(rates) == pytest.approx(1, abs=0.01)
    assert rates.index(max(rates)) in range(9, 12)
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert 0 < rates[-1] < 0.02


def test_a_constant_rate_stays() -> None:
    assert [lr_scale(schedule_of("constant", 0.0), step / 10, 0.1) for step in range(10)] == [1.0] * 10


@pytest.mark.parametrize("name", ["muon", "adamw"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_weight_is_updated_by_exactly_one_optimizer(name: str, tied: bool) -> None:
    model = build("lstm", model_config("lstm", tie_weights=tied), 9)
    updates = optimizers(model, optimizer(name), 0.01, 0.5)
    updated = [id(p) for update in updates for group in update.param_groups for p in group["params"]]
    assert len(updated) == len(set(updated))
    assert set(updated) == {id(p) for p in model.parameters()}


def test_muon_gets_the_matrices_of_the_recurrence_and_nothing_else() -> None:
    model = build("gru", model_config("gru"), 9)
    muon, adamw = optimizers(model, optimizer("muon"), 0.01, 0.5)
    assert isinstance(muon, Muon)
    assert isinstance(adamw, AdamW)
    expected = {id(p) for name, p in model.recurrence.named_parameters() if "weight" in name}
    assert {id(p) for group in muon.param_groups for p in group["params"]} == expected
    assert muon.param_groups[0]["lr"] == 0.01
    assert {group["lr"] for group in adamw.param_groups} == {0.5}


def test_fp32_is_always_to_be_had() -> None:
    assert precision("fp32", torch.device("cpu")) == "fp32"
    assert precision("auto", torch.device("cpu")) in {"fp32", "bf16"}
