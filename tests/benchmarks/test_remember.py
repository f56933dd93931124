"""benchmarks/remember.py: what a model must name, that a run repeats itself, and its picture."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_project import CHECKOUT

SIZE = {"steps": 3, "seeds": 2, "batch-size": 4, "parameters": 2500, "train-delay": 4}


@pytest.fixture
def remember(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("remember")


def test_the_answer_is_the_first_token_and_nothing_behind_it_tells_it(remember: Any) -> None:
    tokens, symbol = remember.sequences(200, 7, torch.Generator().manual_seed(1))
    assert tokens.shape == (200, 9)
    assert torch.equal(tokens[:, 0], symbol)
    assert set(symbol.tolist()) == set(range(8))
    assert set(tokens[:, 1:-1].unique().tolist()) == set(range(8, 16))
    assert set(tokens[:, -1].tolist()) == {16}


def test_two_runs_agree_and_the_figures_are_the_table_and_the_picture(
    remember: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    threads, deterministic = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
    monkeypatch.setattr(remember, "TEST_ROWS", 16)
    runs = []
    try:
        for more in ([], ["--picture", str(tmp_path / "right.png")]):
            what = ["--variants", "rnn", "gru", "--delays", "1", "8", "--json", str(tmp_path / "right.json"), *more]
            monkeypatch.setattr(
                sys, "argv", ["remember.py", *what, *(f"--{key}={value}" for key, value in SIZE.items())]
            )
            remember.main()
            runs.append(json.loads((tmp_path / "right.json").read_bytes())["variants"])
    finally:
        torch.set_num_threads(threads)
        torch.use_deterministic_algorithms(deterministic)
    assert runs[0] == runs[1]
    for variant in runs[0].values():
        assert variant["parameters"] <= 2500
        assert variant["learning_rate"] == float(min(variant["validation_nats"], key=variant["validation_nats"].get))
        assert [(row["delay"], len(row["by_seed"])) for row in variant["accuracy"]] == [(1, 2), (8, 2)]
    printed = capsys.readouterr().out.splitlines()
    assert [line.split(" | ")[0] for line in printed[2:4]] == ["| rnn", "| gru"]
    assert (tmp_path / "right.png").read_bytes().startswith(b"\x89PNG")


def test_so_few_parameters_that_no_model_fits_are_one_line(remember: Any) -> None:
    with pytest.raises(remember.InputError, match="--parameters 10: too few for a lstm"):
        remember.sized("lstm", 10)
