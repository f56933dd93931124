"""A trained model of each cell learns: a small text, seeded, to a loss far below that of its letters' frequencies."""

from __future__ import annotations

import inspect

import pytest
import torch
from configs import model_config, with_slow_ones
from torch.nn import functional as F

from recurlm.model import build
from recurlm.variants import REGISTRY

LETTERS = "abcdefgh"
OWN = {"heads": 2, "key_size": 8, "window": 16}
STEPS, ROWS, TIME = 120, 16, 24
GOAL = 0.6  # nats; without context, 2.08


def rows(random: torch.Generator) -> torch.Tensor:
    """Each row repeats three letters of its own: the next one is that of three before."""
    return torch.randint(len(LETTERS), (ROWS, 3), generator=random).repeat(1, TIME // 3 + 1)[:, : TIME + 1]


@pytest.mark.parametrize("cell", with_slow_ones(REGISTRY))
def test_it_learns_to_repeat_what_a_row_began_with(cell: str) -> None:
    torch.manual_seed(1)
    own = {key: value for key, value in OWN.items() if key in inspect.signature(REGISTRY[cell]).parameters}
    around = {"block": "residual", "conv": 4, "mlp_ratio": 1.0, "concat_layers": False}
    config = model_config(cell, embedding_size=32, hidden_size=32, layers=2, **around, **own)
    model = build(cell, config, len(LETTERS))
    optimizer, random = torch.optim.AdamW(model.parameters(), lr=0.005), torch.Generator().manual_seed(1)
    losses = []
    for _ in range(STEPS):
        tokens = rows(random)
        logits, _ = model(tokens[:, :-1], model.initial_state(ROWS))
        loss = F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[:3]) / 3 > 1.8
    assert sum(losses[-10:]) / 10 < GOAL
