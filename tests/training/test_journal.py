"""The journal of a training run: whole lines, one file a run, the same after a kill."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from recurlm.training import journal
from recurlm.training.journal import Journal, read_journal
from recurlm.training.state import EvalPoint, LogPoint


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(journal.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def told(path: Path) -> list[dict[str, float]]:
    """The lines after the first, without their times."""
    return [{key: value for key, value in line.items() if key != "time"} for line in read_journal(path)[1:]]


def test_about_every_second_the_mean_loss_and_the_pace_are_told(tmp_path: Path, clock: Clock) -> None:
    run = Journal(tmp_path / "run.jsonl", "a key", "bilstm", "pseudo_")
    for step, loss in enumerate((6.0, 5.0, 4.0, 3.0), 1):
        clock.now += 0.5
        run.step(step, step * 100, loss)
    names = ("step", "pseudo_train_loss", "training_tokens", "tokens_per_second")
    assert told(run.path) == [
        dict(zip(names, (2, 5.5, 200.0, 200.0), strict=True)),
        dict(zip(names, (4, 3.5, 400.0, 200.0), strict=True)),
    ]


def test_the_time_of_an_evaluation_is_no_part_of_the_pace(tmp_path: Path, clock: Clock) -> None:
    run = Journal(tmp_path / "run.jsonl", "a key", "lstm")
    clock.now += 0.5
    run.step(1, 100, 6.0)
    clock.now += 60
    run.validation(EvalPoint(1, 100, 6.0, 5.5, 0.01))
    run.sample(LogPoint(1, 100, 6.0, None, 0.01))
    clock.now += 0.5
    run.step(2, 200, 5.0)
    *others, last = told(run.path)
    assert others == [
        {"step": 1, "validation_loss": 5.5, "validation_perplexity": math.exp(5.5)},
        {"step": 1, "learning_rate": 0.01},
    ]
    assert last["tokens_per_second"] == 200.0


def test_a_run_goes_on_in_its_own_journal_without_the_line_that_a_kill_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    Journal(path, "a key", "lstm").write(5, {"validation_loss": 4.5})
    before = path.read_bytes()
    path.write_bytes(before + b'{"time": 17, "st')
    Journal(path, "a key", "lstm").write(10, {"validation_loss": 4.25})
    assert path.read_bytes().startswith(before)
    assert [line["step"] for line in told(path)] == [5, 10]
    head = read_journal(path)[0]
    Journal(path, "another key", "lstm")
    assert [line["key"] for line in read_journal(path)] == ["another key"]
    assert read_journal(path)[0]["id"] != head["id"]


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"no json\n", b'{"key": 1'])
def test_a_damaged_journal_is_begun_again(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    Journal(path, "a key", "lstm")
    assert [line["key"] for line in read_journal(path)] == ["a key"]
