"""The last layer and the loss in one: the plain formula's value and gradients, without all logits at once."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from recurlm.training import loss
from recurlm.training.loss import linear_cross_entropy, sampled_cross_entropy


def task(positions: int, vocabulary: int, width: int = 6) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(positions)
    x, weight, bias = (
        torch.randn(*shape, generator=draw, dtype=torch.float64).requires_grad_()
        for shape in ((positions, width), (vocabulary, width), (vocabulary,))
    )
    return x, weight, bias, torch.randint(vocabulary, (positions,), generator=draw)


@pytest.mark.parametrize("positions", [1, 7, 64])
@pytest.mark.parametrize("logits", [1, 50, 2**22])
def test_value_and_gradients_are_those_of_the_plain_formula(
    positions: int, logits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loss, "LOGITS", logits)
    x, weight, bias, targets = task(positions, 11)
    plain = F.cross_entropy(F.linear(x, weight, bias), targets)
    sliced = linear_cross_entropy(x, weight, bias, targets)
    torch.testing.assert_close(sliced.double(), plain, rtol=1e-6, atol=0)
    expected = torch.autograd.grad(3 * plain, (x, weight, bias))
    found = torch.autograd.grad(3 * sliced, (x, weight, bias))
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)


def test_the_logits_of_all_positions_are_never_held(monkeypatch: pytest.MonkeyPatch) -> None:
    largest = 0

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            made = function(*args, **(kwargs or {}))
            if isinstance(made, Tensor):
                largest = max(largest, made.numel())
            return made

    monkeypatch.setattr(loss, "LOGITS", 4000)
    x, weight, bias, targets = task(positions=256, vocabulary=500)
    with Watch():
        linear_cross_entropy(x, weight, bias, targets).backward()
    assert largest <= 4000 < 256 * 500


def test_an_impossible_target_costs_what_it_should() -> None:
    """A probability below the smallest float still has a logarithm."""
    weight, bias = torch.zeros(2, 1), torch.tensor([0.0, -200.0])
    nats = linear_cross_entropy(torch.zeros(1, 1), weight, bias, torch.tensor([1]))
    assert nats.item() == pytest.approx(200.0)


def test_under_autocast_the_products_are_bf16_and_the_sums_fp32() -> None:
    x, weight, bias, targets = (value.float() if value.is_floating_point() else value for value in task(64, 11))
    weight = weight.detach().requires_grad_()
    exact = linear_cross_entropy(x, weight, bias, targets)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = linear_cross_entropy(x, weight, bias, targets)
    assert rounded.dtype == torch.float32
    assert rounded != exact
    torch.testing.assert_close(rounded, exact, rtol=0.01, atol=0)
    assert torch.autograd.grad(rounded, weight)[0].dtype == torch.float32


def test_drawing_every_token_is_the_plain_loss() -> None:
    x, weight, bias, targets = task(positions=9, vocabulary=30)
    whole = linear_cross_entropy(x, weight, bias, targets)
    for drawn in (30 - len(targets.unique()), 1000):
        sampled = sampled_cross_entropy(x, weight, bias, targets, drawn)
        torch.testing.assert_close(sampled, whole)
        expected = torch.autograd.grad(whole, (x, weight, bias), retain_graph=True)
        for one, other in zip(torch.autograd.grad(sampled, (x, weight, bias)), expected, strict=True):
            torch.testing.assert_close(one, other)


def test_the_softmax_sum_over_drawn_tokens_is_right_on_average() -> None:
    """Of one position the loss is log(sum) - logit: its exponential has the sum's own mean."""
    torch.manual_seed(0)
    x, weight, bias, targets = (value.detach() for value in task(positions=1, vocabulary=40, width=2))
    whole = linear_cross_entropy(x, weight, bias, targets).exp()
    losses = torch.stack([sampled_cross_entropy(x, weight, bias, targets, 8) for _ in range(4000)])
    error = losses.exp().std() / len(losses) ** 0.5
    assert error < 0.02 * whole
    assert abs(losses.exp().mean() - whole) < 4 * error
    assert losses.mean() < whole.log()  # the logarithm of an uncertain sum is too low


def test_tokens_that_were_not_drawn_get_no_gradient() -> None:
    x, weight, bias, targets = task(positions=5, vocabulary=100)
    sampled_cross_entropy(x, weight, bias, targets, 20).backward()
    moved = weight.grad.abs().sum(1) > 0
    assert moved[targets].all()
    assert moved.sum() == 20 + len(targets.unique())


def test_the_same_seed_draws_the_same_tokens() -> None:
    x, weight, bias, targets = task(positions=5, vocabulary=100)

    def drawn(seed: int) -> float:
        torch.manual_seed(seed)
        return sampled_cross_entropy(x, weight, bias, targets, 20).item()

    assert drawn(1) == drawn(1) != drawn(2)
