"""Every cell on a long text of extreme inputs: what it holds stays finite."""

from __future__ import annotations

import pytest
import torch
from configs import model_config

from recurlm.model import build
from recurlm.variants import REGISTRY

STEPS, WIDTH, EXTREME = 10_000, 4, 1e3


@pytest.mark.parametrize("cell", REGISTRY)
@torch.no_grad()
def test_10_000_steps_of_extreme_inputs_stay_finite(cell: str) -> None:
    torch.manual_seed(1)
    config = model_config(cell, embedding_size=WIDTH, hidden_size=WIDTH, layers=1)
    recurrence = build("extreme", config, 11).recurrence
    state = recurrence.initial_state(2)
    x = EXTREME * torch.randn(2, STEPS, WIDTH)
    x[:, : STEPS // 2] = x[:, :1]  # the same element again and again, then another each time
    y, after = recurrence(x, state)
    assert bool(y.isfinite().all())
    assert {name: value.shape for name, value in after.items()} == {name: value.shape for name, value in state.items()}
    assert all(bool(value.isfinite().all()) for value in after.values())
    _, after = recurrence.step(x[:, -1], after)
    assert all(bool(value.isfinite().all()) for value in after.values())


@pytest.mark.parametrize(
    ("cell", "gate", "bias"), [("mingru", "Wz", -7.0), ("minlstm", "Wf", 7.0), ("qrnn", "Wf", 7.0), ("hgrn", "Wf", 7.0)]
)
@torch.no_grad()
def test_a_long_memory_trained_in_bf16_is_that_of_fp32(cell: str, gate: str, bias: float) -> None:
    """A gate of 0.999 is 1 in bf16, which nothing would ever leave, while 0.001 of each input came in."""
    torch.manual_seed(1)
    recurrence = REGISTRY[cell](8, 16)
    getattr(recurrence, gate).bias.fill_(bias)
    x, start = torch.randn(2, 2000, 8), recurrence.initial_state(2)
    _, exact = recurrence(x, start)
    with torch.autocast("cpu", torch.bfloat16):
        _, trained = recurrence(x, start)
    name = next(iter(exact))
    assert float((trained[name] - exact[name]).norm() / exact[name].norm()) < 0.1
