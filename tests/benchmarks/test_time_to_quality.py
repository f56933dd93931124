"""benchmarks/time_to_quality.py: what a mixture is, and that its models are those that single runs train."""

from __future__ import annotations

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_project import CHECKOUT, tiny_play


def run(folder: Path, *options: str) -> Any:
    """The figures of a run of two steps on a tiny text."""
    text = folder / "text.txt"
    text.write_text("".join(tiny_play(number, 200) for number in range(4)), encoding="utf-8")
    sizes = ("hidden_size=8", "data.batch_size=4", "data.sequence_length=16")
    command = [sys.executable, CHECKOUT / "benchmarks/time_to_quality.py", "--corpus", text, "--steps", "2", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([*command, *sizes], cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_mixture_predicts_with_the_mean_of_the_probabilities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    mixed = importlib.import_module("time_to_quality").mixed
    first, second = np.array([0.5, 0.1]), np.array([0.25, 0.3])  # probabilities of two tokens
    expected = -(math.log(0.375) + math.log(0.2)) / 2
    assert mixed([-np.log(first), -np.log(second)]) == pytest.approx(expected, rel=1e-12)
    assert mixed([-np.log(first)] * 3) == pytest.approx(-np.log(first).mean(), rel=1e-12)


def test_the_models_of_a_mixture_are_those_of_single_runs_and_it_is_better_than_their_mean(tmp_path: Path) -> None:
    mixture, alone = run(tmp_path, "--models", "2", "--seed", "2"), run(tmp_path, "--seed", "4")
    assert mixture["steps"] == 4
    assert mixture["parameters"] == 2 * alone["parameters"]
    for name in ("loss_streamed", "loss_cold_256"):
        each = mixture["each"][name]
        assert each[0] != each[1]
        assert each[1] == pytest.approx(alone[name], abs=1e-6)
        assert mixture[name] < sum(each) / 2


def test_a_mixture_of_one_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="--models 1: a mixture has two or more"):
        run(tmp_path, "--models", "1")


def test_a_budget_that_is_over_before_it_begins_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match=r"--budget 0\.1: over before the models of a mixture begin"):
        run(tmp_path, "--models", "2", "--budget", "0.1")


def test_seeds_that_were_run_apart_are_not_run_again(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    alone = run(tmp_path, "--seed", "2", "--json", str(kept / "2.json"))
    before = (kept / "2.json").stat().st_mtime_ns
    seeds = run(tmp_path, "--seeds", "2", "--runs", str(kept))["seeds"]
    assert (kept / "2.json").stat().st_mtime_ns == before
    first = json.loads((kept / "1.json").read_text(encoding="utf-8"))
    assert seeds["loss_streamed"]["values"] == [first["loss_streamed"], alone["loss_streamed"]]
    with pytest.raises(AssertionError, match=r"1\.json: budget is 60\.0, and --budget is 600\.0"):
        run(tmp_path, "--seeds", "2", "--runs", str(kept), "--budget", "600")
