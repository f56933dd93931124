"""Promises of how a token is drawn."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recurlm.export.sampling import (
    covered,
    cut,
    divisor,
    draw,
    limits,
    penalize,
    sample,
    scale,
    suppression,
    threshold,
    weigh,
)

LOGITS = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=2, max_size=30)


def cut_all(scaled: Tensor, top_k: Tensor, top_p: Tensor, min_p: float = 0.0) -> Tensor:
    """`cut` with the whole vocabulary ranked."""
    return cut_ranked(scaled, torch.topk(scaled, scaled.shape[1]).values, top_k, top_p, min_p)


def cut_ranked(scaled: Tensor, ranked: Tensor, top_k: Tensor, top_p: Tensor, min_p: float) -> Tensor:
    asked = limits(top_k, top_p, torch.full_like(top_p, min_p), scaled.shape[1])
    return cut(scaled, ranked, weigh(scaled, ranked), **asked._asdict())


def one_row(values: list[float]) -> Tensor:
    return torch.tensor([values])


def settings_of(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor([temperature]), torch.tensor([top_k]), torch.tensor([top_p])


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0, 0.5])
    draws, rows = 100_000, 1000
    counts = np.zeros(5)
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(3))
    for numbers in uniform.split(rows):
        tokens = draw(logits.expand(rows, -1), threshold(numbers, torch.ones(rows)))
        counts += np.bincount(tokens.numpy(), minlength=5)
    expected = torch.softmax(logits, 0).numpy() * draws
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 18.5  # 4 degrees of freedom: a fair sampler is above in one run of a thousand


@given(LOGITS, st.floats(0, 1, exclude_max=True, width=32))
def test_temperature_zero_takes_the_likeliest_whatever_the_uniform_number(values: list[float], u: float) -> None:
    token = sample(one_row(values), *settings_of(temperature=0.0), torch.tensor([u]), torch.zeros(len(values)))
    assert token.item() == int(np.argmax(values))


@given(LOGITS, st.integers(1, 40))
def test_top_k_keeps_the_k_likeliest_and_their_equals(values: list[float], k: int) -> None:
    kept = cut_all(one_row(values), torch.tensor([k]), torch.tensor([1.0]))[0]
    lowest = sorted(values, reverse=True)[min(k, len(values)) - 1]
    assert [bool(torch.isfinite(logit)) for logit in kept] == [value >= lowest for value in values]


@given(LOGITS, st.floats(0.01, 0.99))
def test_top_p_keeps_the_smallest_set_that_holds_p(values: list[float], p: float) -> None:
    kept = torch.isfinite(cut_all(one_row(values), torch.tensor([0]), torch.tensor([p]))[0])
    probability = torch.softmax(torch.tensor(values), 0).double()
    assert probability[kept].sum() >= p - 1e-6
    rarest_kept = probability[kept].min()
    more_likely = probability[probability > rarest_kept + 1e-9].sum()
    assert more_likely < p + 1e-6  # without the rarest ones kept, p would not be reached
    assert bool((probability[~kept] < rarest_kept + 1e-9).all())


@given(LOGITS, st.sampled_from([0.0, 0.5, 1 - 2**-24, 1 - 2**-12]), st.integers(0, 5))
def test_what_is_cut_is_never_drawn(values: list[float], u: float, k: int) -> None:
    scaled = cut_all(one_row(values), torch.tensor([k]), torch.tensor([0.9]))
    token = draw(scaled, threshold(torch.tensor([u]), torch.tensor([1.0])))
    assert 0 <= token.item() < len(values)
    assert torch.isfinite(scaled[0, token.item()])


@given(LOGITS)
@settings(max_examples=30)
def test_suppressed_tokens_are_never_drawn(values: list[float]) -> None:
    mask = suppression(len(values), [int(np.argmax(values))])
    for temperature in (0.0, 1.0):
        for u in (0.0, 0.3, 0.999999):
            token = sample(one_row(values), *settings_of(temperature), torch.tensor([u]), mask)
            assert token.item() != int(np.argmax(values))


def test_each_row_has_settings_of_its_own() -> None:
    logits = torch.tensor([[0.0, 1.0, 3.0]]).expand(3, -1)
    tokens = sample(
        logits,
        torch.tensor([0.0, 1.0, 1.0]),
        torch.tensor([0, 0, 1]),
        torch.tensor([1.0, 1.0, 1.0]),
        torch.tensor([0.0, 0.0, 0.0]),
        torch.zeros(3),
    )
    assert tokens.tolist() == [2, 0, 2]


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_temperature_divides_the_logits(temperature: float) -> None:
    scaled = scale(one_row([1.0, -2.0]), divisor(torch.tensor([temperature])), torch.zeros(2))
    assert scaled.tolist() == [[1 / temperature, -2 / temperature]]


@given(LOGITS, st.floats(0.01, 1))
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(values: list[float], p: float) -> None:
    kept = torch.isfinite(cut_all(one_row(values), torch.tensor([0]), torch.tensor([1.0]), min_p=p)[0])
    probability = torch.softmax(torch.tensor(values, dtype=torch.float64), 0)
    share = probability / probability.max()
    assert bool(kept[share > p + 1e-5].all())
    assert not bool(kept[share < p - 1e-5].any())
    assert bool(kept[int(np.argmax(values))])


@given(LOGITS, st.integers(1, 30), st.integers(0, 40), st.floats(0.05, 1), st.floats(0, 1))
@example([1.0, 0.0, 0.0, 0.0], 2, 2, 0.7, 0.0)  # equal logits within and beyond what is ranked
def test_what_is_covered_is_cut_like_the_whole_vocabulary(
    values: list[float], width: int, k: int, p: float, min_p: float
) -> None:
    scaled, top_k, top_p = one_row(values), torch.tensor([min(k, len(values))]), torch.tensor([p])
    width = min(max(width, k), len(values))
    ranked = torch.topk(scaled, width).values
    asked = limits(top_k, top_p, torch.tensor([min_p]), len(values))
    if bool(covered(ranked, weigh(scaled, ranked), asked.limited, asked.nucleus, asked.ranks, len(values))):
        assert torch.equal(cut_ranked(scaled, ranked, top_k, top_p, min_p), cut_all(scaled, top_k, top_p, min_p))
    else:
        assert len(values) > width


@given(LOGITS, st.floats(1, 5))
def test_a_repetition_penalty_makes_seen_tokens_less_likely_and_leaves_the_others(
    values: list[float], penalty: float
) -> None:
    seen = torch.arange(len(values))[None] % 2 == 0
    penalized = penalize(one_row(values), seen, torch.tensor([penalty]))
    assert torch.equal(penalized[~seen], one_row(values)[~seen])
    assert bool((penalized[seen] <= one_row(values)[seen]).all())
    assert torch.equal(penalize(one_row(values), seen, torch.tensor([1.0])), one_row(values))


@given(st.floats(1e-3, 1e3), st.integers(2, 30))
def test_temperature_zero_tells_logits_apart_that_differ_in_the_last_bit(value: float, size: int) -> None:
    likeliest = np.float32(value)
    row = torch.full((1, size), float(np.nextafter(likeliest, np.float32(-np.inf))))
    row[0, size // 2] = float(likeliest)
    token = sample(row, *settings_of(temperature=0.0), torch.tensor([0.7]), torch.zeros(size))
    assert token.item() == size // 2
