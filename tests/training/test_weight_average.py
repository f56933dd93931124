"""Promises of the weight averages: each is the mean that it is called, and training goes on from its own weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recurlm.config import TrainRegularization
from recurlm.training.regularization import WeightAverage


def averaged(model: nn.Module, kind: str, decay: float, patience: int) -> WeightAverage:
    changes = {"average": kind, "ema_decay": decay, "asgd_patience": patience}
    return WeightAverage(model, TrainRegularization(ar=0.0, tar=0.0, **changes))


def walk(average: WeightAverage, model: nn.Linear, steps: int) -> list[torch.Tensor]:
    """Move the weights at random, and tell where they were after each step."""
    places = []
    for _ in range(steps):
        with torch.no_grad():
            model.weight += torch.randn_like(model.weight)
        average.update()
        places.append(model.weight.detach().clone())
    return places


def test_ema_is_the_mean_whose_weights_fall_by_the_decay() -> None:
    torch.manual_seed(1)
    model = nn.Linear(3, 2)
    average = averaged(model, "ema", decay=0.9, patience=1)
    places = walk(average, model, 200)
    weights = torch.tensor([0.1 * 0.9 ** (199 - step) for step in range(200)])
    expected = sum(weight * place for weight, place in zip(weights, places, strict=True))
    torch.testing.assert_close(average.mean["weight"], expected, atol=1e-5, rtol=1e-5)


def test_a_young_ema_follows_closely() -> None:
    torch.manual_seed(1)
    model = nn.Linear(3, 2)
    average = averaged(model, "ema", decay=0.999, patience=1)
    (place,) = walk(average, model, 1)
    torch.testing.assert_close(average.mean["weight"], place)


def test_the_asgd_average_begins_once_validation_gets_no_better_and_is_a_plain_mean() -> None:
    torch.manual_seed(1)
    model = nn.Linear(3, 2)
    average = averaged(model, "asgd", decay=0.0, patience=2)
    losses: list[float] = []
    for loss in (3.0, 2.0, 2.5, 1.9, 2.4):  # of the last two, one was always better than all before
        walk(average, model, 3)
        losses.append(loss)
        average.on_evaluation(losses)
        assert average.count == 0
    losses.append(2.0)
    average.on_evaluation(losses)
    places = walk(average, model, 5)
    average.on_evaluation([*losses, 5.0, 6.0])  # once it runs, it runs
    places += walk(average, model, 5)
    torch.testing.assert_close(average.mean["weight"], torch.stack(places).mean(0))


@pytest.mark.parametrize("kind", ["none", "ema", "asgd"])
def test_the_average_is_lent_to_the_model_and_taken_back(kind: str) -> None:
    model = nn.Linear(3, 2)
    average = averaged(model, kind, decay=0.9, patience=1)
    average.on_evaluation([1.0, 2.0])
    last = walk(average, model, 20)[-1]
    bias = model.bias.detach().clone()
    with average.applied():
        assert torch.equal(model.weight, last) == (kind == "none")
        if kind != "none":
            assert torch.equal(model.weight, average.mean["weight"])
        torch.testing.assert_close(model.bias, bias)
    assert torch.equal(model.weight, last)


def test_the_model_gets_its_weights_back_after_an_error_too() -> None:
    model = nn.Linear(3, 2)
    average = averaged(model, "ema", decay=0.9, patience=1)
    last = walk(average, model, 20)[-1]

    def fail() -> None:
        with average.applied():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert torch.equal(model.weight, last)
