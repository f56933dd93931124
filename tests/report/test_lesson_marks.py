"""What is put between the marks of docs/lesson.md: numbers by their address, and words that the numbers choose."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from fabricated_results import write, write_results

from recurlm.errors import InputError
from recurlm.report.docs import fill, read

GATED = ("rnn", "gru", "lstm")
NEVER = None  # the gradient never vanished, or every cut cost too much


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_results(tmp_path, (*GATED, "bilstm"))
    shutil.rmtree(tmp_path / "data/metrics/diagnostics")  # each test writes what it is about
    return tmp_path


def increases(*distances: int) -> list[dict[str, Any]]:
    return [{"k": k, "increase": 1 / k, "increase_interval": None} for k in distances]


def diagnose(root: Path, name: str, context: int | None = 20, reach: int | None = 30, **more: Any) -> None:
    """The part of data/metrics/diagnostics/<name>.json that speaks of memory."""
    lesson = {
        "gates": 1,
        "hidden_size": 8,
        "layers": 2,
        "output_size": 16,
        "state_size": 32,
        "parameters": 1234,
        "effective_context_tokens": context,
        "gradient_vanished_at_after_training": reach,
    }
    flow = {"k": [0, 1, 200], "state_mean": [None, 1.0, 0.5], "input_mean": [1.0, 1.0, 0.5], "vanished_at": reach}
    found = {
        "lesson": lesson,
        "gradients": {"sides": 1, "before_training": flow, "after_training": flow},
        "context": {"cut": increases(1, 100), "shuffled_beyond": increases(5), "dropped_beyond": increases(5)},
    }
    write(root / f"data/metrics/diagnostics/{name}.json", found | more)


def text(root: Path, name: str) -> str:
    """What a `text` mark is filled with."""
    return fill(f"<!-- text: {name} -->\n<!-- /text -->", read(root)).split("\n", 1)[1].rsplit("\n", 1)[0]


def runs(gaps: tuple[float, float], best: tuple[float, float]) -> dict[str, Any]:
    """The overfitting block: without and with dropout."""
    pairs = zip(gaps, best, (0.0, 0.4), strict=True)
    rows = [
        {"dropout": rate, "points": [], "problem": None, "gap": gap, "best_validation_nats_per_token": loss}
        for gap, loss, rate in pairs
    ]
    return {"learning_curve": [], "short_runs": {"runs": rows}}


def test_a_figure_is_the_number_at_its_address(root: Path) -> None:
    diagnose(root, "lstm", context=NEVER)
    loss = json.loads((root / "data/metrics/lstm.json").read_bytes())["test"]["nats_per_token"]
    page = (
        "so <!-- figure: lstm.json test.nats_per_token .2f -->9.99<!-- /figure --> and "
        "<!-- figure: diagnostics/lstm.json lesson.parameters , --><!-- /figure -->; "
        "<!-- figure: diagnostics/lstm.json lesson.effective_context_tokens --><!-- /figure -->; "
        "<!-- figure: diagnostics/gru.json lesson.gates --><!-- /figure -->."
    )
    filled = fill(page, read(root))
    assert f">{loss:.2f}<" in filled
    assert ">1,234<" in filled
    assert ">—<" in filled
    assert ">not measured yet<" in filled
    assert fill(filled, read(root)) == filled


@pytest.mark.parametrize(
    ("page", "what"),
    [
        ("<!-- figure: lstm.json test.nats --><!-- /figure -->", "has no 'test.nats'"),
        ("<!-- figure: lstm.json variant --><!-- /figure -->", "'variant' is no number"),
        ("<!-- text: memry -->\n<!-- /text -->", "did you mean 'memory'?"),
        ("<!-- timing: memory -->\n<!-- /timing -->", "unknown timing 'memory'"),
        ("<!-- text: memory -->\n<!-- /figure -->", "is not closed"),
    ],
)
def test_a_mark_with_an_unknown_name_or_address_is_refused(root: Path, page: str, what: str) -> None:
    with pytest.raises(InputError, match=r"docs/lesson\.md") as error:
        fill(page, read(root))
    assert what in str(error.value)


@pytest.mark.parametrize(
    ("contexts", "reaches", "by_context", "by_gradient"),
    [
        ((5, 20, 20), (10, 40, 80), "which is what the lesson says.", "which is what the lesson says."),
        ((20, 20, 50), (25, 62, 26), "which is not what", "which is what the lesson says, but by little."),
        ((NEVER, 20, 20), (10, NEVER, NEVER), "which is not what", "which is what the lesson says."),
    ],
)
def test_the_verdict_on_memory_follows_from_the_metrics(
    root: Path,
    contexts: tuple[int | None, ...],
    reaches: tuple[int | None, ...],
    by_context: str,
    by_gradient: str,
) -> None:
    assert text(root, "memory") == "*not measured yet*"
    for name, context, reach in zip(GATED, contexts, reaches, strict=True):
        diagnose(root, name, context, reach)
    first, second = text(root, "memory").split(" By the gradient")
    assert by_context in f"{first} "
    assert by_gradient in second
    assert ("rnn more than 100" in first) == (contexts[0] is NEVER)
    assert ("gru more than 200" in second) == (reaches[1] is NEVER)


def test_the_verdict_on_dropout_follows_from_the_metrics(root: Path) -> None:
    diagnose(root, "rnn", overfitting=runs(gaps=(2.0, 1.0), best=(6.1, 6.3)))
    diagnose(root, "lstm", overfitting=runs(gaps=(2.0, 1.0), best=(6.1, 6.0)))
    failed = {"dropout": 0.0, "points": [], "gap": None, "problem": "rate too high"}
    diagnose(
        root, "gru", overfitting={"learning_curve": [], "short_runs": {"runs": [failed, failed | {"dropout": 0.4}]}}
    )
    sentence = text(root, "dropout")
    assert "the gap in 2 of 2 variants" in sentence
    assert "the best validation loss in 1 of 2" in sentence
    rows = {line.split(" | ")[0].strip("| "): line for line in text(root, "overfitting").splitlines()}
    assert rows["gru"].count("—") == 5
    assert "6.30" in rows["rnn"]


def test_a_variant_that_was_not_diagnosed_is_no_row_and_breaks_nothing(root: Path) -> None:
    diagnose(root, "gru")
    table = text(root, "comparison")
    assert "| gru |" in table
    assert "lstm" not in table


@pytest.mark.parametrize(("speeds", "verdict"), [((9, 8, 7), "holds"), ((9, 7, 8), "does not hold")])
def test_speeds_of_this_machine_are_compared_and_those_of_another_are_left(
    root: Path, speeds: tuple[int, ...], verdict: str
) -> None:
    page = "<!-- timing: speed -->\nanother machine's\n<!-- /timing -->"
    for name, speed in zip(GATED, speeds, strict=True):
        path = root / f"data/timings/train-{name}.json"
        write(path, json.loads(path.read_bytes()) | {"tokens_per_second": 1000 * speed})
    assert fill(page, read(root), timings=False) == page
    filled = fill(page, read(root))
    assert f"In training the lesson's order {verdict} on this machine" in filled
    for path in (root / "data/timings").iterdir():
        path.unlink()
    assert fill(page, read(root)) == page
    assert "not measured yet" in fill(page.replace("another machine's\n", ""), read(root))
