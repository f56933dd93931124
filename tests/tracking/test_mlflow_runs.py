"""What a run in MLflow tells of its result."""

from __future__ import annotations

import json
import math
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from configs import CHECKOUT
from mlflow_project import all_runs, pipelines, runs, track

from recurlm import config
from recurlm.report.lock import md5_of
from recurlm.report.results import load_results
from recurlm.tracking import describe, store, view


def test_a_run_tells_how_its_model_learned(logged: Path) -> None:
    run = runs(logged)["lstm"]
    with store.find(logged).connected() as client:
        losses = [
            (metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "validation_loss")
        ]
    assert losses == [(5, 4.75), (10, 4.25), (15, 3.75)]
    assert run.data.metrics["best_validation_loss"] == 3.75
    assert run.data.metrics["best_step"] == 15
    assert run.data.metrics["validation_perplexity"] == pytest.approx(math.exp(3.75))
    assert run.data.metrics["train_loss"] == 4.5
    assert run.data.metrics["learning_rate"] == 0.01
    assert run.data.params["hidden_size"] == "8"
    assert run.data.params["train.seed"] == "7"
    assert run.data.params["fetch.source"] == "packaged"


def test_a_run_has_the_scores_and_the_verification_of_its_model(logged: Path) -> None:
    metrics = runs(logged)["lstm"].data.metrics
    assert metrics["test_bits_per_byte"] == 1.875
    assert metrics["verified"] == 1
    assert metrics["verification_largest_logit_difference"] == 2.5e-6
    assert metrics["bundle_bytes"] == 12_345_678
    assert metrics["training_tokens_per_second"] == metrics["generation_tokens_per_second"] == 12346.6


def test_the_numbers_of_a_cloze_model_are_named_apart(logged: Path) -> None:
    found = runs(logged)
    cloze, left_to_right = found["bilstm"].data.metrics, found["lstm"].data.metrics
    assert cloze["best_pseudo_validation_loss"] == 3.5
    assert cloze["test_pseudo_bits_per_byte"] == 1.75
    shared = cloze.keys() & left_to_right.keys()
    assert not [name for name in shared if re.search("loss|perplexity|nats_per|bits_per", name)]


def test_a_run_tells_where_it_comes_from(logged: Path) -> None:
    run = runs(logged)["lstm"]
    expected = {
        "variant": "lstm",
        "corpus": "two <plays>",
        "tokenizer": "bpe 300",
        "protocol": "streamed",
        "dvc_stage": "train@lstm",
        "dvc_lock_model": md5_of(logged / "data/models/lstm"),
        "dvc_lock_bundle": md5_of(logged / "data/onnx/lstm"),
    }
    assert expected.items() <= run.data.tags.items()
    read = json.loads((logged / "data/corpus/manifest.json").read_bytes())["splits"]
    datasets = {used.tags[0].value: used.dataset for used in run.inputs.dataset_inputs}
    assert datasets.keys() == {"training", "validation", "testing"}
    assert read["train"]["sha256"].startswith(datasets["training"].digest)
    assert json.loads(datasets["testing"].profile)["sha256"] == read["test"]["sha256"]


def test_the_commit_and_what_differs_from_it_are_named(root: Path) -> None:
    def git(*arguments: str) -> str:
        who = ("-c", "user.name=a test", "-c", "user.email=test@localhost")
        return subprocess.run(["git", *who, *arguments], cwd=root, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("add", "params.yaml", "dvc.lock")
    git("commit", "--quiet", "--message", "results")
    (root / "params.yaml").write_text((root / "params.yaml").read_text() + "\n", encoding="utf-8")
    (root / "dvc.lock").unlink()
    shutil.rmtree(root / ".mlflow")
    results = load_results(root, config.load(root / "params.yaml"))
    tags = describe.tags(root, results, results.variants[0], describe.Training("", 0, 0, ()))
    assert tags["git_commit"] == git("rev-parse", "HEAD").strip()
    assert tags["git_changed"] == "params.yaml"


def test_a_run_names_that_of_its_pipeline_which_holds_the_report_and_hides_under_none(logged: Path) -> None:
    (above,) = pipelines(logged)
    assert above.info.run_name == "pipeline, bpe 300, 1 epoch"
    assert {run.data.tags["recurlm.pipeline_run"] for run in runs(logged).values()} == {above.info.run_id}
    assert not any("mlflow.parentRunId" in run.data.tags for run in all_runs(logged))
    files = Path(above.info.artifact_uri.removeprefix("file://"))
    assert (files / "report/index.html").read_bytes() == (logged / "data/report/index.html").read_bytes()
    assert (files / "dvc.lock").read_bytes() == (logged / "dvc.lock").read_bytes()
    assert above.data.tags["best_variant"] == "lstm", "bilstm's numbers are lower, and another thing"
    assert above.data.metrics["best_validation_bits_per_byte"] == 1.875


def test_a_run_has_the_times_and_the_metrics_of_its_trainings_journal(root: Path) -> None:
    path, start = root / "data/timings/train-lstm.json", 1_700_000_000_000
    path.write_text(json.dumps({**json.loads(path.read_bytes()), "run_key": "a key"}), encoding="utf-8")
    lines: list[dict[str, object]] = [
        {"time": start, "variant": "lstm", "key": "a key", "id": "an id"},
        {"time": start + 1004, "step": 5, "train_loss": 6.5, "tokens_per_second": 4000.5},
        {"time": start + 2010, "step": 9, "train_loss": 6.25, "tokens_per_second": 4100.5},
        {"time": start + 2020, "step": 9, "system/cpu_utilization_percentage": 97.5},
        {"time": start + 61_500, "step": 15, "validation_loss": 3.75},
    ]
    path.with_suffix(".jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    track(root)
    run = runs(root)["lstm"]
    assert (run.info.start_time, run.info.end_time) == (start, start + 61_500)
    with store.find(root).connected() as client:
        losses = client.get_metric_history(run.info.run_id, "train_loss")
        (load,) = client.get_metric_history(run.info.run_id, "system/cpu_utilization_percentage")
    assert [(loss.timestamp, loss.step, loss.value) for loss in losses] == [
        (start + 1004, 5, 6.5),
        (start + 2010, 9, 6.25),
    ]
    assert (load.timestamp - start, load.value) == (2020, 97.5)


def test_an_experiment_of_dvc_is_a_run_of_its_own_with_what_is_new_under_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    track(root)
    metrics = root / "data/metrics/rnn.json"
    metrics.write_text(metrics.read_text(encoding="utf-8").replace("54.59", "45.59"), encoding="utf-8")
    monkeypatch.setenv("DVC_EXP_NAME", "puffy-hogs")
    assert track(root) == ["rnn"]
    above = {run.info.run_id: run for run in pipelines(root)}
    assert sorted(run.info.run_name for run in above.values()) == ["pipeline, bpe 300, 1 epoch", "puffy-hogs"]
    new = next(run for run in all_runs(root) if run.data.tags.get("dvc_experiment") and "variant" in run.data.tags)
    assert above[new.data.tags["recurlm.pipeline_run"]].info.run_name == "puffy-hogs"
    assert track(root) == []
    assert len(all_runs(root)) == 1 + 3 + 1 + 1


def test_the_view_opens_on_metrics_that_the_runs_have(logged: Path) -> None:
    with store.find(logged).connected() as client:
        tags = client.get_experiment_by_name("recurlm").tags
    shown = json.loads(tags[view.TAG])
    assert len(tags[view.TAG]) < 5000, "what a tag of an experiment may hold"
    have = {name for run in runs(logged).values() for name in run.data.metrics}
    assert {"validation_loss", "validation_bits_per_byte", "test_bits_per_byte", "bundle_bytes"} <= have
    columns = {column.split("`")[1] for column in shown["selectedColumns"] if column.startswith("metrics.")}
    assert columns <= have
    with store.find(logged).connected() as client:
        found = client.search_runs([runs(logged)["rnn"].info.experiment_id], shown["searchFilter"])
    assert {run.info.run_name for run in found} == runs(logged).keys()


def test_curve_and_descriptions_of_bundles_lie_beside_the_run(logged: Path) -> None:
    files = Path(runs(logged)["lstm"].info.artifact_uri.removeprefix("file://"))
    noted, original = files / "bundles/fp32/bundle.json", logged / "data/onnx/lstm/fp32/bundle.json"
    assert noted.read_bytes() == original.read_bytes()
    assert (files / "curve.csv").read_bytes() == (logged / "data/models/lstm/curve.csv").read_bytes()


def test_the_sample_is_logged_where_there_is_one(root: Path) -> None:
    (root / "data/report/samples").mkdir(parents=True)
    (root / "data/report/samples/lstm.txt").write_text("KING.\nHa!\n", encoding="utf-8")
    track(root)
    files = Path(runs(root)["lstm"].info.artifact_uri.removeprefix("file://"))
    assert (files / "sample/lstm.txt").read_text(encoding="utf-8") == "KING.\nHa!\n"


def test_the_addresses_of_the_view_name_the_experiment_of_the_results_whatever_was_logged_before(root: Path) -> None:
    address = "http://127.0.0.1:5000"
    assert view.addresses(root, address) == [f"No result is logged in the experiment 'recurlm' yet: {address}"]
    with store.find(root).connected() as client:
        store.open_experiment(client, store.find(root), "recurlm-compare")
    track(root)
    with store.find(root).connected() as client:
        number = client.get_experiment_by_name("recurlm").experiment_id
    table, charts = (line.partition(": ")[2].strip() for line in view.addresses(root, address))
    start = f"{address}/#/experiments/{number}/runs?"
    assert table.startswith(start)
    assert charts.startswith(start)
    assert "compareRunsMode=CHART" in charts
    assert "/experiments/" not in (CHECKOUT / "Makefile").read_text(encoding="utf-8")
