"""What the lesson claims: each verdict follows from the figures beside it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from fabricated_results import write, write_results

from recurlm import config
from recurlm.report import claims
from recurlm.report.docs import fill, read
from recurlm.report.metrics import read_metrics
from recurlm.report.results import load_results

NAMES = ("rnn", "gru", "lstm", "bilstm")
GATES = {"rnn": 0, "gru": 2, "lstm": 3, "bilstm": 3}
LEFT_TO_RIGHT = NAMES[:3]
NEVER = None  # within reach


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_results(tmp_path, NAMES)
    for name in NAMES:
        change(tmp_path, f"metrics/diagnostics/{name}", "lesson", gates=GATES[name])
    return tmp_path


def change(root: Path, file: str, part: str, **values: Any) -> None:
    """Other values in a part of a JSON file of data/."""
    path = root / f"data/{file}.json"
    content = json.loads(path.read_bytes())
    target = content[part] if part else content
    target |= values
    write(path, content)


def verdicts(root: Path, claim: str) -> list[str]:
    results = load_results(root, config.load(root / "params.yaml"))
    table = claims.table(results, read_metrics(results))
    assert table.heads == ("claim", "measured as", *NAMES, "verdict")
    return [row[-1].text for row in table.rows if row[0].text == claim]


@pytest.mark.parametrize(
    ("steps", "contexts", "by_gradient", "by_context"),
    [
        ((10, 15, 30), (20, 20, 20), "holds", "does not hold"),
        ((10, 14, 30), (20, 50, 21), "by little", "by little"),
        ((10, NEVER, NEVER), (10, NEVER, 15), "holds", "holds"),
        ((NEVER, NEVER, 9), (5, 4, 50), "does not hold", "does not hold"),
    ],
)
def test_a_longer_memory_is_one_that_reaches_half_as_far_again(
    root: Path, steps: tuple[Any, ...], contexts: tuple[Any, ...], by_gradient: str, by_context: str
) -> None:
    for name, step, context in zip(LEFT_TO_RIGHT, steps, contexts, strict=True):
        values = {"gradient_vanished_at_after_training": step, "effective_context_tokens": context}
        change(root, f"metrics/diagnostics/{name}", "lesson", **values)
    assert verdicts(root, "gates keep a memory longer") == [by_gradient, by_context]
    vanished = "does not hold" if steps[0] is NEVER else "holds"
    assert verdicts(root, "gradients vanish without gates") == [vanished]


@pytest.mark.parametrize(
    ("with_dropout", "verdict"),
    [
        ((5.0, 5.0, 5.0, 5.0), "holds"),
        ((5.99, 5.0, 5.0, 5.0), "by little"),
        ((6.2, 5.0, 5.0, 6.0), "does not hold: lower in 2 of 4"),
        ((6.2, 6.2, 6.2, 6.2), "does not hold"),
    ],
)
def test_dropout_is_judged_by_the_validation_loss_whatever_the_gap(
    root: Path, with_dropout: tuple[float, ...], verdict: str
) -> None:
    for name, after in zip(NAMES, with_dropout, strict=True):
        key = f"{'pseudo_' if name == 'bilstm' else ''}best_validation_nats_per_token"
        runs = [{key: loss, "gap": 3.0, "dropout": rate, "points": []} for loss, rate in ((6.0, 0.0), (after, 0.4))]
        change(root, f"metrics/diagnostics/{name}", "overfitting", short_runs={"runs": runs})
    assert verdicts(root, "dropout helps against overfitting") == [verdict]


@pytest.mark.parametrize(
    ("speeds", "by_gates", "by_directions"),
    [
        ((400, 300, 200, 100), "holds", "does not hold"),
        ((400, 390, 200, 210), "by little", "by little"),
        ((100, 200, 300, 400), "does not hold", "holds"),
    ],
)
def test_speeds_are_compared_by_gates_and_two_directions_with_one(
    root: Path, speeds: tuple[int, ...], by_gates: str, by_directions: str
) -> None:
    for name, speed in zip(NAMES, speeds, strict=True):
        change(root, f"timings/train-{name}", "", tokens_per_second=speed)
    assert verdicts(root, "more gates, slower")[0] == by_gates
    assert verdicts(root, "bidirectional trains faster") == [by_directions]


def test_two_directions_double_the_output_of_one_or_the_claim_does_not_hold(root: Path) -> None:
    assert verdicts(root, "bidirectional doubles the output") == ["holds"]
    change(root, "metrics/diagnostics/bilstm", "lesson", output_size=8)
    assert verdicts(root, "bidirectional doubles the output") == ["does not hold"]


def test_what_was_not_measured_is_not_shown(root: Path) -> None:
    for folder in ("metrics/diagnostics", "metrics/perplexity", "timings"):
        for path in (root / "data" / folder).iterdir():
            path.unlink()
    results = load_results(root, config.load(root / "params.yaml"))
    assert {row[-1].text for row in claims.table(results, read_metrics(results)).rows} == {"not shown"}


@pytest.mark.parametrize(
    ("right", "verdict"),
    [
        ({"rnn": [0.2, 0.5], "gru": [1.0, 0.9], "lstm": [0.6, 0.7]}, "holds"),
        ({"rnn": [0.2, 0.65], "gru": [1.0, 0.9], "lstm": [0.6, 0.7]}, "by little"),
        ({"rnn": [0.9, 0.9], "gru": [1.0, 0.9], "lstm": [0.6, 0.7]}, "does not hold"),
        ({"gru": [1.0, 0.9]}, "not shown"),
    ],
)
def test_the_page_judges_the_memory_task_too(root: Path, right: dict[str, list[float]], verdict: str) -> None:
    variants = {
        name: {
            "hidden_size": 8,
            "parameters": 900,
            "learning_rate": 0.01,
            "accuracy": [{"delay": 2, "by_seed": [1.0, 1.0]}, {"delay": 9, "by_seed": by_seed}],
        }
        for name, by_seed in right.items()
    }
    write(root / "benchmarks/results/remember.json", {"train_delay": 9, "variants": variants})
    page = fill("<!-- text: claims -->\n<!-- /text -->\n<!-- text: remember -->\n<!-- /text -->", read(root))
    last = next(line for line in page.splitlines() if "after 9 tokens of noise" in line)
    assert last.endswith(f"| {verdict} |")
    assert "| gru | 8 | 900 | 0.01 | 100 % | 95 % (90–100) |" in page


def compared(names: dict[str, float], verdict: str) -> dict[str, Any]:
    """results.json of a comparison: variant → training tokens/s, and the transformer's verdict."""
    parts = {
        name: {
            "speed": {"training_tokens_per_second": rate, "generation_us_int8": 1e6 / rate},
            "settings": {"dropout": 0.1},
            "nats_per_token": 3.5,
            "against_reference": {"verdict": verdict},
        }
        for name, rate in names.items()
    }
    return {"variants": parts}


def tasks(scores: dict[str, list[float]]) -> dict[str, Any]:
    """Figures of the memory tasks: cell → the scores of its seeds, the same on both tasks."""
    at = {name: {"scores": [{"length": 32, "by_seed": each}]} for name, each in scores.items()}
    return {"cells": {name: {"mqar": each, "selective_copying": each} for name, each in at.items()}}


def verdicts_of(found: dict[str, Any] | None, remembered: dict[str, Any] | None) -> list[str]:
    return [row[-1].text for row in claims.by_comparison(found, remembered).rows]


def test_claims_follow_from_the_comparison_and_the_memory_tasks() -> None:
    speeds = {"rnn": 300.0, "gru": 200.0, "lstm": 100.0, "transformer": 50.0}
    scores = {"rnn": [0.1, 0.2], "gru": [0.9, 0.8], "lstm": [0.7, 0.9], "transformer": [1.0, 1.0]}
    expected = ["holds", "holds", "holds", "holds", "not shown", "holds"]
    assert verdicts_of(compared(speeds, "better"), tasks(scores)) == expected


def test_claims_can_fail_by_the_comparison() -> None:
    speeds = {"rnn": 100.0, "gru": 200.0, "lstm": 300.0, "transformer": 50.0}
    scores = {"rnn": [0.9, 0.9], "gru": [0.8, 0.8], "lstm": [0.9, 0.9], "transformer": [0.1, 0.1]}
    expected = ["does not hold", "does not hold", "does not hold", "does not hold", "not shown", "does not hold"]
    assert verdicts_of(compared(speeds, "worse"), tasks(scores)) == expected


def test_what_neither_the_comparison_nor_the_tasks_show_is_not_said() -> None:
    scores = {"rnn": [0.1, 0.95], "gru": [0.9, 1.0], "lstm": [0.9, 1.0]}
    only_lstm = compared({"lstm": 1.0}, "not shown")
    assert verdicts_of(only_lstm, tasks(scores)) == ["by little", *["not shown"] * 5]
    assert verdicts_of(None, None) == ["not shown"] * 6


def test_one_seed_says_nothing_of_memory() -> None:
    found = verdicts_of(None, tasks({"rnn": [0.1], "gru": [1.0], "lstm": [1.0], "transformer": [1.0]}))
    assert found == ["not shown"] * 6
