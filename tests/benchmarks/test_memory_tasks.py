"""benchmarks/memory_tasks.py: each task's answer follows from its inputs, and a run repeats itself."""

from __future__ import annotations

import importlib
import itertools
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_project import CHECKOUT


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("tasks")


def rows(task: Any, length: int, number: int = 20) -> list[tuple[list[Any], list[tuple[int, Any]]]]:
    """(inputs, [(place that counts, its target)]) of each row."""
    inputs, targets, counted = task.make(number, length, torch.Generator().manual_seed(3))
    assert targets.shape == counted.shape == inputs.shape[:2]
    return [
        (given.tolist(), [(at, target[at].item()) for at in where.nonzero()[:, 0].tolist()])
        for given, target, where in zip(inputs, targets, counted, strict=True)
    ]


def test_the_value_stood_behind_its_key(tasks: Any) -> None:
    for inputs, answers in rows(tasks.TASKS["mqar"], 4):
        pairs = dict(zip(inputs[0:8:2], inputs[1:8:2], strict=True))
        assert len(pairs) == len(answers) == 4
        assert {at for at, _ in answers} <= set(range(8, 24))
        assert [pairs[inputs[at]] for at, _ in answers] == [value for _, value in answers]
        assert set(inputs[8:]) == {0, *pairs}


def test_what_is_copied_stood_in_this_order(tasks: Any) -> None:
    for inputs, answers in rows(tasks.TASKS["selective_copying"], 12):
        assert [each for each in inputs[:12] if each] == [value for _, value in answers]
        assert {inputs[at] for at, _ in answers} == {9}


def test_the_sum_is_of_the_two_marked_numbers_one_in_each_half(tasks: Any) -> None:
    for inputs, answers in rows(tasks.TASKS["adding"], 10):
        marked = [at for at, (_, mark) in enumerate(inputs) if mark == 1]
        assert marked[0] < 5 <= marked[1]
        assert len(marked) == 2
        assert answers == [(9, pytest.approx(sum(inputs[at][0] for at in marked)))]


def test_parity_counts_the_ones(tasks: Any) -> None:
    for inputs, answers in rows(tasks.TASKS["parity"], 9):
        assert answers == [(at, sum(inputs[: at + 1]) % 2) for at in range(9)]


def test_an_expression_has_the_value_that_python_gives_it(tasks: Any) -> None:
    for inputs, answers in rows(tasks.TASKS["modular"], 7, 100):
        expression = "".join("+-*"[each - 5] if each >= 5 else str(each) for each in inputs)
        assert answers == [(at, eval(expression[: at + 1]) % 5) for at in range(0, 13, 2)], expression


@pytest.mark.parametrize(("name", "points"), [("s3", 3), ("s5", 5)])
def test_a_product_of_permutations_is_one_after_the_other(tasks: Any, name: str, points: int) -> None:
    elements = list(itertools.permutations(range(points)))
    assert tasks.TASKS[name].vocabulary == len(elements)
    for inputs, answers in rows(tasks.TASKS[name], 6, 10):
        places = list(range(points))  # where each point has come to
        for at, target in answers:
            places = [elements[inputs[at]][place] for place in places]
            assert elements[target] == tuple(places)


def test_a_run_repeats_itself_and_draws_a_heat_map(
    tasks: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program = importlib.import_module("memory_tasks")
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(program, "RATES", (0.001, 0.01))
    size = ["--steps=1", "--seeds=1", "--batch-size=2", "--test-rows=4", "--width=16"]
    what = ["--cells", "gru", "--tasks", "adding", "parity", "--json", str(tmp_path / "scores.json")]
    runs = []
    try:
        for more in ([], [f"--picture={tmp_path / 'map.png'}"]):
            monkeypatch.setattr(sys, "argv", ["memory_tasks.py", *what, *size, *more])
            program.main()
            runs.append(json.loads((tmp_path / "scores.json").read_bytes())["cells"])
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    assert runs[0] == runs[1]
    assert list(runs[0]["gru"]) == ["adding", "parity"]
    assert [at["length"] for at in runs[0]["gru"]["parity"]["scores"]] == [40, 80, 160]
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")
    assert "| gru | parity |" in capsys.readouterr().out
    with pytest.raises(program.InputError, match="did you mean 'lstm'"):
        program.configured("lstn", 16)


def test_a_perfect_answer_scores_1_and_a_guess_about_0(tasks: Any) -> None:
    program = importlib.import_module("memory_tasks")

    class Oracle(torch.nn.Module):
        def forward(self, inputs: torch.Tensor) -> torch.Tensor:
            right = torch.nn.functional.one_hot(inputs.cumsum(dim=1) % 2, 2).float()
            return right if self.training else torch.ones_like(right)

    parity = tasks.TASKS["parity"]
    assert program.score(Oracle(), parity, 40, 64, 1) == 1
    assert abs(program.score(Oracle().eval(), parity, 40, 2000, 1)) < 0.1
