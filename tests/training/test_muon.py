"""Muon is torch's Muon where it orthogonalizes at every step, and orthogonal in any case."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from recurlm.training.optimizer import Muon, orthogonal


@given(st.integers(1, 40), st.integers(1, 40), st.integers(0, 99))
def test_all_singular_values_become_about_one(rows: int, columns: int, seed: int) -> None:
    x = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed))
    values = torch.linalg.svdvals(x)
    found = torch.linalg.svdvals(orthogonal(x))[values > 0.02 * values.norm()]
    assert found.min() > 0.6
    assert found.max() < 1.3


def test_it_is_torchs_muon_when_every_step_has_its_own_direction() -> None:
    torch.manual_seed(1)
    start = torch.randn(12, 8)
    ours, theirs, other = (nn.Parameter(start.clone()) for _ in range(3))
    settings = {"lr": 0.02, "momentum": 0.95, "weight_decay": 0.1}
    optimizers = [
        Muon([ours], **settings),
        torch.optim.Muon([theirs], **settings, adjust_lr_fn="match_rms_adamw"),
        torch.optim.Muon([other], **settings | {"momentum": 0.5}, adjust_lr_fn="match_rms_adamw"),
    ]
    for _ in range(5):
        gradient = torch.randn(12, 8)
        for weight, optimizer in zip((ours, theirs, other), optimizers, strict=True):
            weight.grad = gradient.clone()
            optimizer.step()
    way = (theirs - start).norm()
    assert (ours - theirs).norm() < 0.05 * way  # five iterations in bf16, which keeps 8 bits
    assert (other - theirs).norm() > 0.05 * way


@pytest.mark.parametrize("every", [1, 3])
def test_matrices_take_turns_and_go_on_the_way_they_went(every: int) -> None:
    torch.manual_seed(1)
    matrices = [nn.Parameter(torch.zeros(5, 4)) for _ in range(2)]
    optimizer = Muon(matrices, lr=0.1, momentum=0.0, weight_decay=0.0, every=every)
    moves = []
    for _ in range(6):
        before = [matrix.detach().clone() for matrix in matrices]
        for matrix in matrices:
            matrix.grad = torch.randn(5, 4)
        optimizer.step()
        moves.append([(matrix - old).detach() for matrix, old in zip(matrices, before, strict=True)])
    for number in range(2):
        new = [not torch.allclose(moves[t][number], moves[t - 1][number], atol=1e-6) for t in range(1, 6)]
        assert new == [(t + number) % every == 0 for t in range(1, 6)]


def test_a_matrix_without_a_gradient_stays() -> None:
    matrix = nn.Parameter(torch.ones(3, 3))
    Muon([matrix], lr=0.1, momentum=0.9, weight_decay=0.5).step()
    assert bool((matrix == 1).all())


@pytest.mark.parametrize("supported", [False, True])
def test_products_are_in_bf16_only_where_the_machine_multiplies_in_it(
    supported: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)
    x = torch.randn(12, 8, generator=torch.Generator().manual_seed(1))
    rounded = orthogonal(x).bfloat16().float()  # what bf16 holds stays what it is
    assert torch.equal(rounded, orthogonal(x)) == supported
