"""What a run takes is said before it begins and in its first seconds, and what cannot fit is refused."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import PARAMS, model_config, train_config
from tiny_training import tiny_params

from recurlm import model
from recurlm.config import ModelConfig
from recurlm.errors import InputError
from recurlm.training import estimate
from recurlm.training.batches import Stream
from recurlm.training.estimate import TimeLeft, Work, check_memory, duration, memory, work_of
from recurlm.training.run import TrainingBar, train_variant

CPU = torch.device("cpu")
STREAM = Stream(np.zeros(4000, np.uint16), 4, 16)


def work(variant: ModelConfig, **train: object) -> Work:
    found = work_of("lstm", variant, train_config(**train), 50, STREAM, validation_tokens=1000)
    assert found is not None
    return found


@pytest.mark.parametrize("layers", [1, 2, 5])
@pytest.mark.parametrize(
    "variant",
    [
        model_config("rnn"),
        model_config("bilstm", tie_weights=False),
        model_config("gru", concat_layers=False),
        model_config("lstm", block="residual", conv=3, mlp_ratio=1.5),
    ],
)
def test_parameters_are_counted_without_building_the_model(variant: ModelConfig, layers: int) -> None:
    variant = variant.model_copy(update={"layers": layers})
    before = torch.get_rng_state()
    counted = work(variant).parameters
    assert torch.equal(torch.get_rng_state(), before)
    assert counted == model.count_parameters(model.build("lstm", variant, 50))


def test_operations_are_those_of_the_products() -> None:
    """By hand: an RNN of one layer, and one evaluation that costs a third of an epoch of as many tokens."""
    variant = model_config("rnn", layers=1, embedding_size=6, hidden_size=9)
    found = work(variant, **{"optimizer.name": "adamw", "data.epochs": 2, "evaluation.num_evals": 1})
    products = 6 * 9 + 9 * 9 + 9 * 6 + 6 * 50  # W, U, the projection to the table's width, the table
    assert found.steps == 2 * len(STREAM)
    assert math.isclose(found.operations, 2 * products * (3 * 2 * STREAM.tokens + 1000))


def test_what_cannot_fit_is_refused_before_it_is_built(data: Path) -> None:
    params = tiny_params(variants={"lstm": {"hidden_size": 2**20}})
    with pytest.raises(
        InputError, match=r"variant 'lstm' has 4,\d+,\d+,\d+,\d+ parameters and needs at least .* GB of"
    ):
        train_variant("lstm", params, data, lambda: False)
    assert [path.name for path in data.iterdir()] == ["tokens"]
    with pytest.raises(InputError, match="larger than any machine"):
        work_of("lstm", model_config("lstm", block="residual", mlp_ratio=1e17), PARAMS.train, 50, STREAM, 1)


def test_a_container_s_memory_is_the_machine_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    monkeypatch.setattr(estimate, "CGROUP_LIMIT", limit)
    need = Work(parameters=1000, bytes=20_000_000, steps=1, operations=1.0)
    for text, fits in {"max\n": True, "30000000\n": True, "10000000\n": False}.items():
        limit.write_text(text)
        if fits:
            check_memory("lstm", need, CPU)
        else:
            with pytest.raises(InputError, match="needs at least 20 MB of memory to train, and this machine has 10 MB"):
                check_memory("lstm", need, CPU)


def test_the_time_left_is_said_once_with_that_of_the_variants_that_wait(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: float(next(clock)))
    own, other = (Work(1, 1, 1000, operations) for operations in (1e9, 3e9))
    left = TimeLeft("gru", own, lambda: {"lstm": other})
    for step in range(10):
        left.after_step((step + 1) / 1000)
    assert capsys.readouterr().err == (
        "train gru: about 17 minutes left at 1 steps/s; not trained yet, at as many operations a second: "
        "lstm about 50 minutes\n"
    )


def test_a_run_says_what_it_takes_and_which_variants_wait(
    data: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(estimate, "FIRST_SECONDS", 0.0)
    params = tiny_params()
    for name in ("rnn", "gru"):
        train_variant(name, params, data, lambda: False)
    first, second = capsys.readouterr().err.split("train gru: ", 1)
    assert first.startswith("train rnn: 441 parameters, ")
    assert "not trained yet, at as many operations a second: gru about" in first
    assert "MB of memory" in second
    waiting = second.partition("not trained yet")[2]
    assert "rnn" not in waiting
    assert "lstm about" in waiting
    other = tiny_params(train={"data": {"epochs": 2}})
    train_variant("gru", other, data, lambda: False)
    assert "rnn about" in capsys.readouterr().err.partition("not trained yet")[2]


def test_a_bar_begins_where_the_run_does_and_ends_at_its_end(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    screen.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr("sys.stderr", screen)
    total = STREAM.tokens
    with TrainingBar("lstm", train_config(**{"data.epochs": 1}), STREAM, None) as bar:
        bar.update(3, total * 3 // 4, math.nan)  # a checkpoint was loaded
        bar.update(4, total - 10, 1.0)
        bar.update(5, total + 50, 1.0)
        assert (bar.bar.initial, bar.bar.n) == (total * 3 // 4, total)
    lines = screen.getvalue().replace("\n", "\r").split("\r")
    shares = [int(line.partition("%")[0].rpartition(" ")[2]) for line in lines if "%|" in line]
    assert "goes on from its checkpoint, 75% of the run" in screen.getvalue()
    assert shares[0] == 75
    assert shares[-1] == 100


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0.1, "a second or two"), (40, "40 seconds"), (7300, "2 hours"), (11_700, "3.2 hours"), (1e12, "32,000 years")],
)
def test_times_are_told_to_two_digits(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_memory_is_told_to_two_digits() -> None:
    assert [memory(size) for size in (10, 2.34e8, 5.67e9, 1e16)] == ["1 MB", "230 MB", "5.7 GB", "10,000,000 GB"]
