"""Promises of how a token is drawn."""

from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from recurlm.export.sampling import (
    LARGEST,
    LARGEST_UNIFORM,
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
    weights,
)

LOGITS = st.lists(st.integers(-40, 40).map(lambda n: n / 4), min_size=2, max_size=30)


def cut_all(weight: Tensor, top_k: Tensor, top_p: Tensor, min_p: float = 0.0) -> Tensor:
    """`cut` with the whole vocabulary ranked."""
    return cut_ranked(weight, torch.topk(weight, weight.shape[1]).values, top_k, top_p, min_p)


def cut_ranked(weight: Tensor, ranked: Tensor, top_k: Tensor, top_p: Tensor, min_p: float) -> Tensor:
    asked = limits(top_k, top_p, torch.full_like(top_p, min_p), weight.shape[1])
    return cut(weight, ranked, weigh(weight), **asked._asdict())


def one_row(values: list[float]) -> Tensor:
    return torch.tensor([values])


def weights_of(values: list[float]) -> Tensor:
    return weights(one_row(values))


def settings_of(temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0) -> tuple[Tensor, Tensor, Tensor]:
    return torch.tensor([temperature]), torch.tensor([top_k]), torch.tensor([top_p])


def test_draws_follow_the_softmax() -> None:
    logits = torch.tensor([2.0, 0.0, 1.0, -1.0, 0.5])
    draws, rows = 100_000, 1000
    counts = np.zeros(5)
    uniform = torch.rand(draws, generator=torch.Generator().manual_seed(3))
    for numbers in uniform.split(rows):
        tokens = draw(weights(logits.expand(rows, -1)), threshold(numbers, torch.ones(rows)))
        counts += np.bincount(tokens.numpy(), minlength=5)
    expected = torch.softmax(logits, 0).numpy() * draws
    chi_squared = ((counts - expected) ** 2 / expected).sum()
    assert chi_squared < 18.5  # 4 degrees of freedom: a fair sampler is above in one run of a thousand


@given(LOGITS, st.floats(0, 1, exclude_max=True, width=32))
def test_temperature_zero_takes_the_likeliest_whatever_the_uniform_number(values: list[float], u: float) -> None:
    token = sample(one_row(values), *settings_of(temperature=0.0), torch.tensor([u]), torch.zeros(len(values)))
    assert token.item() == int(np.argmax(values))


def test_weights_are_as_near_to_the_exponential_function_as_they_say() -> None:
    x = torch.linspace(-24, 0, 100_001)
    exact, error = x.double().exp(), (weights(x[None])[0].double() / LARGEST - x.double().exp()).abs()
    assert bool((error <= 1e-5 * exact + 1 / LARGEST)[x >= -5].all())
    assert bool((error <= 2e-4 * exact + 1 / LARGEST)[x >= -10].all())
    assert bool((error <= 2e-2 * exact + 1 / LARGEST).all())
    assert weights_of([3.0, 3.0, -torch.inf, -21.5]).tolist() == [[LARGEST, LARGEST, 0, 0]]


@given(LOGITS, st.integers(1, 40))
def test_top_k_keeps_the_k_largest_weights_and_their_equals(values: list[float], k: int) -> None:
    weight = weights_of(values)
    lowest = weight.sort(descending=True).values[0, min(k, len(values)) - 1]
    kept = cut_all(weight, torch.tensor([k]), torch.tensor([1.0]))
    assert torch.equal(kept, torch.where(weight >= lowest, weight, 0))


@given(LOGITS, st.floats(2**-7, 1 - 2**-7, width=32))
def test_top_p_keeps_the_smallest_set_that_holds_p_and_its_equals(values: list[float], p: float) -> None:
    weight = weights_of(values)
    kept = cut_all(weight, torch.tensor([0]), torch.tensor([p]))[0].tolist()
    whole, ranked = sum(weight[0].tolist()), sorted(weight[0].tolist(), reverse=True)
    size = next(count for count in range(1, len(ranked) + 1) if sum(ranked[:count]) >= p * whole)
    assert kept == [each if each >= ranked[size - 1] else 0 for each in weight[0].tolist()]


@given(LOGITS, st.sampled_from([0.0, 0.5, 1 - 2**-24, 1 - 2**-12]), st.integers(0, 5))
def test_what_is_cut_is_never_drawn(values: list[float], u: float, k: int) -> None:
    kept = cut_all(weights_of(values), torch.tensor([k]), torch.tensor([0.9]))
    token = draw(kept, threshold(torch.tensor([u]), torch.tensor([1.0])))
    assert 0 <= token.item() < len(values)
    assert kept[0, token.item()] > 0


@given(st.lists(st.integers(0, LARGEST), max_size=30), st.floats(0, 1, width=32))
@example([LARGEST] * 2**16, 1.0)
def test_the_token_drawn_is_the_first_whose_cumulative_weight_passes_the_uniform_number(
    others: list[int], u: float
) -> None:
    """In whole numbers of any size; the likeliest token always has the largest weight."""
    weight = [*others, LARGEST]
    token = draw(torch.tensor([weight]), threshold(torch.tensor([u]), torch.tensor([1.0]))).item()
    number = int(min(u, LARGEST_UNIFORM) * sum(weight))
    assert token == next(place for place, total in enumerate(accumulate(weight)) if total > number)


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


@given(LOGITS, st.floats(2**-7, 1, width=32))
def test_min_p_keeps_what_is_likely_enough_beside_the_likeliest(values: list[float], p: float) -> None:
    weight = weights_of(values)
    kept = cut_all(weight, torch.tensor([0]), torch.tensor([1.0]), min_p=p)
    assert kept[0].tolist() == [each if each >= p * LARGEST else 0 for each in weight[0].tolist()]
    assert kept.max() == LARGEST


@given(LOGITS, st.integers(1, 30), st.integers(0, 40), st.floats(0.05, 1), st.floats(0, 1))
@example([1.0, 0.0, 0.0, 0.0], 2, 2, 0.7, 0.0)  # equal weights within and beyond what is ranked
@example([0.0] * 4, 1, 0, 1.0, 0.0)  # neither is asked for: ranked is a part of what is kept
def test_what_is_covered_is_cut_like_the_whole_vocabulary(
    values: list[float], width: int, k: int, p: float, min_p: float
) -> None:
    weight, top_k, top_p = weights_of(values), torch.tensor([min(k, len(values))]), torch.tensor([p])
    width = min(max(width, k), len(values))
    ranked = torch.topk(weight, width).values
    asked = limits(top_k, top_p, torch.tensor([min_p]), len(values))
    if bool(covered(ranked, weigh(weight), asked.limited, asked.nucleus)):
        assert torch.equal(cut_ranked(weight, ranked, top_k, top_p, min_p), cut_all(weight, top_k, top_p, min_p))
    else:
        assert len(values) > width


@given(st.lists(LOGITS.map(lambda values: (values * 16)[:16]), min_size=2, max_size=4), st.data())
def test_rows_with_different_limits_are_cut_as_if_alone(rows: list[list[float]], data: st.DataObject) -> None:
    weight, count = weights(torch.tensor(rows)), len(rows)
    top_k = torch.tensor(data.draw(st.lists(st.integers(0, 20), min_size=count, max_size=count)))
    top_p = torch.tensor(data.draw(st.lists(st.sampled_from([0.3, 0.9, 1.0]), min_size=count, max_size=count)))
    together = cut_all(weight, top_k, top_p)
    for row in range(count):
        alone = cut_all(weight[row : row + 1], top_k[row : row + 1], top_p[row : row + 1])
        assert torch.equal(together[row], alone[0])


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
