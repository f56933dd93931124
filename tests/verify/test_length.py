"""Time by length: measured by a stage that a fresh clone runs too; and it leaves no trace in a model."""

from __future__ import annotations

import json

import pytest
import torch
from configs import train_config
from tiny_models import CAUSAL, CLOZE, make
from tiny_project import Project

from recurlm import config
from recurlm.config import Speed
from recurlm.report.metrics import read_metrics
from recurlm.report.results import load_results
from recurlm.verify import length

TRAIN = train_config(
    **{"seed": 3, "precision": "fp32", "device": "cpu", "data.batch_size": 4, "data.sequence_length": 16}
)


@pytest.mark.parametrize("name", [*CAUSAL, *CLOZE])
def test_time_is_measured_at_each_length_and_leaves_no_trace(name: str) -> None:
    model = make(name)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = Speed(training_tokens=(2, 8), generated_tokens=(2, 8), batch_size=2, repeats=1)
    timings = length.measure(model, TRAIN, settings)
    assert [row["tokens"] for row in timings["training_step"]] == [2, 8]
    assert all(row["seconds"] > 0 for row in timings["training_step"] + timings["generation"])
    assert (timings["generation_growth"] is None) == (name in CLOZE)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not model.training
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert all(parameter.grad is None for parameter in model.parameters())


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_growth_is_the_exponent_of_the_length(power: float) -> None:
    rows = [{"tokens": n, "seconds": 3 * n**power} for n in (4, 16, 100)]
    assert length.growth(rows) == pytest.approx(power, abs=1e-9)
    assert length.growth(rows[:1]) is None


@pytest.mark.xdist_group("project")
def test_verify_leaves_the_timings_that_the_report_draws(reproduced: Project) -> None:
    data = reproduced.folder / "data"
    for name in ("gru", "bilstm"):
        timings = json.loads((data / f"timings/length-{name}.json").read_bytes())
        assert timings["training_growth"] is not None
        assert (timings["generation"] == []) == (name == "bilstm")
        assert timings["model_sha256"] == json.loads((data / f"models/{name}/model.json").read_bytes())["sha256"]
    metrics = read_metrics(load_results(reproduced.folder, config.load(reproduced.folder / "params.yaml")))
    assert metrics.gaps["lengths"] == ()
    assert set(metrics.rows("length", "training_step_seconds")["variant"]) == {"gru", "bilstm"}
