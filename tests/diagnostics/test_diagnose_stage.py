"""What the stage diagnose leaves in the tiny project, and how it refuses bad input."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess
from typing import Any

import pytest
from tiny_project import Project

pytestmark = pytest.mark.xdist_group("project")

FOLDERS = ("perplexity", "diagnostics", "samples")


def load(project: Project, path: str) -> Any:
    return json.loads((project.folder / "data" / path).read_bytes())


def keys(value: Any) -> Iterator[str]:
    """All names in a JSON value."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield key
            yield from keys(part)
    elif isinstance(value, list):
        for part in value:
            yield from keys(part)


@pytest.mark.parametrize("name", ["gru", "bilstm"])
def test_the_static_score_is_that_of_the_stage_evaluate(reproduced: Project, name: str) -> None:
    static = load(reproduced, f"metrics/perplexity/{name}.json")["static"]
    metrics = load(reproduced, f"metrics/{name}.json")
    assert static["protocol"] == metrics["protocol"]
    for key, value in metrics["test"].items():
        assert static[key] == pytest.approx(value, rel=1e-9)


def test_adaptive_scores_stand_beside_the_static_one_of_the_same_tokens(reproduced: Project) -> None:
    perplexity = load(reproduced, "metrics/perplexity/gru.json")
    for protocol, budget in (("neural_cache", 500), ("dynamic_evaluation", 300)):
        block = perplexity[protocol]
        static = block["static_on_the_same_tokens"]
        assert block["protocol"] == protocol in perplexity["protocols"]
        assert block["tokens"] == static["tokens"] <= budget
        assert block["bytes"] == static["bytes"] < perplexity["static"]["bytes"]
        assert block["whole_split"] is False
        assert block["tuned_on"]["split"] == "validation"
        assert block["gain_nats_per_token"] == pytest.approx(static["nats_per_token"] - block["nats_per_token"])
        assert block["bits_per_byte"] == pytest.approx(
            block["nats_per_token"] * block["tokens"] / block["bytes"] / math.log(2)
        )
    assert sum(row["tokens"] for row in perplexity["by_frequency"]) == perplexity["static"]["tokens"]
    assert sum(row["tokens"] for row in perplexity["by_position"]) == perplexity["static"]["tokens"]


def test_a_cloze_model_s_metrics_are_pseudo_and_those_that_it_lacks_are_null(reproduced: Project) -> None:
    perplexity = load(reproduced, "metrics/perplexity/bilstm.json")
    assert perplexity["objective"] == perplexity["static"]["protocol"] == "cloze"
    assert perplexity["neural_cache"] is perplexity["dynamic_evaluation"] is perplexity["by_position"] is None
    for block in ("static", "cold_windows"):
        assert "pseudo_nats_per_token" in perplexity[block]
        assert "nats_per_token" not in perplexity[block]
        assert all(key.startswith("pseudo_") for key in perplexity[block]["intervals_over_windows"])
    assert load(reproduced, "metrics/samples/bilstm.json")["protocol"] == "filled"


@pytest.mark.parametrize("name", ["gru", "bilstm"])
def test_diagnostics_have_a_row_for_the_lesson_and_a_curve_for_each_claim(reproduced: Project, name: str) -> None:
    diagnostics = load(reproduced, f"metrics/diagnostics/{name}.json")
    gates = 2 if name == "gru" else 3
    assert diagnostics["lesson"]["gates"] == gates
    assert diagnostics["lesson"]["output_size"] == (16 if name == "gru" else 32)
    flow = diagnostics["gradients"]
    for when in ("before_training", "after_training"):
        assert flow[when]["k"][-1] == 20
        assert all(len(flow[when][curve]) == len(flow[when]["k"]) for curve in ("input_mean", "state_median"))
    assert flow["before_training"] != flow["after_training"]
    assert [row["k"] for row in diagnostics["context"]["cut"]] == [1, 5, 20]
    assert diagnostics["gates"]["reported"] is True
    assert len(diagnostics["gates"]["rows"]) == gates * (1 if name == "gru" else 2)
    curve = diagnostics["overfitting"]["learning_curve"]
    assert [row["step"] for row in curve] == sorted(row["step"] for row in curve)
    runs = diagnostics["overfitting"]["short_runs"]["runs"]
    assert [run["dropout"] for run in runs] == [0.0, 0.4]
    assert all(len(run["points"]) == 2 for run in runs)


def test_timings_stand_apart_from_results(reproduced: Project) -> None:
    for name in ("gru", "bilstm"):
        for folder in FOLDERS:
            text = (reproduced.folder / f"data/metrics/{folder}/{name}.json").read_text(encoding="utf-8")
            assert str(reproduced.folder) not in text
            assert not {key for key in keys(json.loads(text)) if "second" in key}


@pytest.mark.parametrize(("arguments", "says"), [([], "which variant?"), (["gruu"], "did you mean 'gru'")])
def test_bad_input_gets_one_line(
    reproduced: Project, refuses: Callable[[CompletedProcess[str], str], None], arguments: list[str], says: str
) -> None:
    refuses(reproduced.run(sys.executable, "pipelines/diagnose.py", *arguments), says)


def test_tokens_of_another_text_are_refused(
    project: Project, refuses: Callable[[CompletedProcess[str], str], None]
) -> None:
    weights = project.folder / "data/models/gru/model.safetensors"
    weights.chmod(0o644)
    weights.write_bytes(weights.read_bytes()[:-4] + b"\0\0\0\1")
    refuses(project.run(sys.executable, "pipelines/diagnose.py", "gru"), "corrupted")
