"""Synthetic tasks that ask one thing of a recurrence each: their sequences, made anew from a seed.

A batch is (inputs, targets, counted): token ids [rows, time], or for `adding` features [rows, time, 2]; the target at
each place; and a mask of the places that count. Lengths are those of the task, not always of the whole sequence.

    mqar               k v k v … then queries: the value that stood behind each key (Arora et al. 2023, "Zoology")
    selective_copying  tokens scattered in blanks, to be repeated in order at the markers (Gu & Dao 2023, "Mamba")
    adding             the sum of the two numbers that are marked (Hochreiter & Schmidhuber 1997)
    parity             whether the number of ones so far is odd
    modular            the value modulo 5 of the expression of +, − and × so far, × first
    s3, s5             the product so far of permutations of three, or of five

The last four ask at every place, where their papers ask at the end alone: a model learns from each of the answers, in a
tenth of the steps. Only the answer at the end is scored.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor, Tensor]
MODULUS = 5
QUERY_POWER = 0.01  # of the gaps between a pair and its query: most are short, some long


@dataclass(frozen=True)
class Task:
    """`make(rows, length, random)` is a batch; `chance` the score of the best constant answer."""

    make: Callable[[int, int, torch.Generator], Batch]
    vocabulary: int  # 0: features, and a number to be predicted
    chance: float  # the fraction of right answers; of `adding`, the mean squared error
    train: tuple[int, int]  # lengths from … to
    test: tuple[int, ...]  # the first within the lengths of training, the others beyond
    running: bool = False  # asks at every place, and is scored at the last


def mqar(rows: int, pairs: int, random: torch.Generator, vocabulary: int = 32) -> Batch:
    """`pairs` keys with their values, then each key once, each value to be named; time is 2 × pairs + 4 × pairs."""
    half, time = vocabulary // 2, 6 * pairs
    keys = torch.stack([torch.randperm(half - 1, generator=random)[:pairs] + 1 for _ in range(rows)])
    values = torch.stack([torch.randperm(half, generator=random)[:pairs] + half for _ in range(rows)])
    inputs = torch.zeros(rows, time, dtype=torch.long)
    targets, counted = torch.zeros_like(inputs), torch.zeros(rows, time, dtype=torch.bool)
    inputs[:, 0 : 2 * pairs : 2], inputs[:, 1 : 2 * pairs : 2] = keys, values
    slots = time - 2 * pairs
    weights = torch.arange(1, slots + 1, dtype=torch.float64) ** (QUERY_POWER - 1)
    places = torch.multinomial(weights.expand(rows, -1), pairs, generator=random) + 2 * pairs
    inputs.scatter_(1, places, keys)
    targets.scatter_(1, places, values)
    counted.scatter_(1, places, True)
    return inputs, targets, counted


def selective_copying(rows: int, length: int, random: torch.Generator, symbols: int = 8, copied: int = 6) -> Batch:
    """`copied` symbols at random places of `length`; at each of the markers behind them, the next in order."""
    blank, marker = 0, symbols + 1
    places = torch.stack([torch.randperm(length, generator=random)[:copied].sort().values for _ in range(rows)])
    values = torch.randint(1, symbols + 1, (rows, copied), generator=random)
    inputs = torch.full((rows, length + copied), blank).scatter(1, places, values)
    inputs[:, length:] = marker
    targets, counted = torch.zeros_like(inputs), torch.zeros_like(inputs, dtype=torch.bool)
    targets[:, length:], counted[:, length:] = values, True
    return inputs, targets, counted


def adding(rows: int, length: int, random: torch.Generator) -> Batch:
    """Numbers in [0, 1), two of them marked, one in each half."""
    numbers, half = torch.rand(rows, length, generator=random), length // 2
    first = torch.randint(half, (rows, 1), generator=random)
    second = torch.randint(half, length, (rows, 1), generator=random)
    marks = torch.zeros(rows, length).scatter(1, torch.cat([first, second], dim=1), 1.0)
    targets = torch.zeros(rows, length)
    targets[:, -1] = (numbers * marks).sum(dim=1)
    return torch.stack([numbers, marks], dim=2), targets, _last(rows, length)


def parity(rows: int, length: int, random: torch.Generator) -> Batch:
    inputs = torch.randint(2, (rows, length), generator=random)
    return inputs, inputs.cumsum(dim=1) % 2, torch.ones(rows, length, dtype=torch.bool)


def modular(rows: int, length: int, random: torch.Generator) -> Batch:
    """Digits 0 to 4 and the operators 5 (+), 6 (−) and 7 (×) in turns; `length` is the number of digits."""
    digits = torch.randint(MODULUS, (rows, length), generator=random)
    operators = torch.randint(3, (rows, length - 1), generator=random)
    total, product = torch.zeros(rows, dtype=torch.long), digits[:, 0]
    values = [product]
    for place in range(length - 1):
        operator, digit = operators[:, place], digits[:, place + 1]
        times = operator == 2
        total = torch.where(times, total, total + product) % MODULUS
        product = torch.where(times, product * digit, torch.where(operator == 0, digit, -digit)) % MODULUS
        values.append((total + product) % MODULUS)
    inputs = torch.empty(rows, 2 * length - 1, dtype=torch.long)
    inputs[:, ::2], inputs[:, 1::2] = digits, operators + MODULUS
    targets, counted = torch.zeros_like(inputs), torch.zeros_like(inputs, dtype=torch.bool)
    targets[:, ::2], counted[:, ::2] = torch.stack(values, dim=1), True
    return inputs, targets, counted


def word_problem(points: int) -> Callable[[int, int, torch.Generator], Batch]:
    """Permutations of so many points; the target at each place is the product of all up to there."""

    def make(rows: int, length: int, random: torch.Generator) -> Batch:
        products = _products(points)
        inputs = torch.randint(len(products), (rows, length), generator=random)
        product, targets = inputs[:, 0], [inputs[:, 0]]
        for place in range(1, length):
            product = products[product, inputs[:, place]]
            targets.append(product)
        return inputs, torch.stack(targets, dim=1), torch.ones(rows, length, dtype=torch.bool)

    return make


@cache
def _products(points: int) -> Tensor:
    """The group's multiplication table: [first, then] → what both do together."""
    elements = list(itertools.permutations(range(points)))
    number = {element: at for at, element in enumerate(elements)}
    return torch.tensor([[number[tuple(then[at] for at in first)] for then in elements] for first in elements])


def _last(rows: int, time: int) -> Tensor:
    counted = torch.zeros(rows, time, dtype=torch.bool)
    counted[:, -1] = True
    return counted


TASKS = {
    "mqar": Task(mqar, 32, 1 / 16, (1, 6), (6, 8, 12)),
    "selective_copying": Task(selective_copying, 10, 1 / 8, (6, 32), (32, 64, 128)),
    "adding": Task(adding, 0, 1 / 6, (4, 40), (40, 80, 160)),
    "parity": Task(parity, 2, 1 / 2, (2, 40), (40, 80, 160), running=True),
    "modular": Task(modular, MODULUS + 3, 1 / MODULUS, (2, 20), (20, 40, 80), running=True),
    "s3": Task(word_problem(3), 6, 1 / 6, (2, 32), (32, 64, 128), running=True),
    "s5": Task(word_problem(5), math.factorial(5), 1 / 120, (2, 16), (16, 32, 64), running=True),
}
