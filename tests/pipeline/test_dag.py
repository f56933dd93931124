"""The real DAG on a tiny corpus: what a repro makes, what it leaves alone, and what brings it back."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from tiny_project import CHECKOUT, TINY_VARIANT, Project

from recurlm import config
from recurlm.report.results import load_results

pytestmark = pytest.mark.xdist_group("project")

VARIANTS = ("gru", "bilstm")
MIRRORED = {"pipeline, bpe 300, 1 epoch": sorted(VARIANTS)}
STAGES = ("train", "evaluate", "export", "verify", "diagnose")


def stages_of(*variants: str) -> set[str]:
    return {f"{stage}@{variant}" for stage in STAGES for variant in variants}


def live_runs(project: Project) -> dict[str, list[str]]:
    """The runs in the project's MLflow store: the name of a pipeline's or an experiment's run → those under it."""
    query = """
        select runs.name, above.name from runs
        left join tags on tags.run_uuid = runs.run_uuid and key = 'recurlm.pipeline_run'
        left join runs as above on above.run_uuid = value
        where runs.lifecycle_stage = 'active' order by runs.name
    """
    with sqlite3.connect(project.folder / ".mlflow/mlflow.db") as store:
        found = store.execute(query).fetchall()
    return {name: [below for below, above in found if above == name] for name, above in found if above is None}


def sync(project: Project) -> None:
    """Fill a store that was deleted."""
    result = project.run("python", "-m", "recurlm.cli", "sync")
    assert result.returncode == 0, result.stderr


def results(project: Project) -> dict[str, bytes]:
    """What must not change when everything runs again: the hashes of all outputs, and the metrics themselves."""
    files = [project.folder / "dvc.lock", *sorted((project.folder / "data/metrics").rglob("*.json"))]
    return {str(file.relative_to(project.folder)): file.read_bytes() for file in files}


def test_one_repro_makes_every_output_of_every_variant(reproduced: Project) -> None:
    data = reproduced.folder / "data"
    for split in ("train", "validation", "test"):
        assert (data / f"corpus/{split}.txt").stat().st_size > 0
        assert (data / f"tokens/{split}.bin").stat().st_size > 0
    for variant in VARIANTS:
        assert (data / f"models/{variant}/model.safetensors").is_file()
        assert (data / f"models/{variant}/curve.csv").read_text(encoding="utf-8").count("\n") >= 3
        assert json.loads((data / f"metrics/{variant}.json").read_bytes())["variant"] == variant
        for folder in ("perplexity", "diagnostics", "samples"):
            assert json.loads((data / f"metrics/{folder}/{variant}.json").read_bytes())["variant"] == variant
        results = json.loads((data / f"metrics/verification/{variant}.json").read_bytes())
        maker = "filler.onnx" if variant == "bilstm" else "generator.onnx"
        for precision in ("fp32", "int8", "int4"):
            assert results[precision]["verified"] is True
            assert results[precision]["products"].keys() == {precision}
            bundle = json.loads((data / f"onnx/{variant}/{precision}/bundle.json").read_bytes())
            assert bundle["precision"] == precision
            assert maker in bundle["files"]
            assert (data / f"onnx/{variant}/{precision}" / maker).is_file()
    found = load_results(reproduced.folder, config.load(reproduced.folder / "params.yaml"))
    reasons = {result.name: (result.stale, result.diagnosis.stale) for result in found.variants}
    assert reasons == dict.fromkeys(VARIANTS, (None, None))
    assert list((data / "report").glob("*.html"))
    assert live_runs(reproduced) == MIRRORED


def test_a_repro_leaves_git_clean_but_for_the_lock_and_the_metrics(reproduced: Project) -> None:
    changed = set(reproduced.git("show", "--format=", "--name-only", "HEAD").splitlines())
    folders = ("", "verification/", "summary/", "perplexity/", "diagnostics/", "samples/")
    metrics = {f"data/metrics/{folder}{variant}.json" for folder in folders for variant in VARIANTS}
    assert changed == {"dvc.lock", *metrics}


def test_nothing_outside_the_checkout_is_written(reproduced: Project) -> None:
    assert sorted(reproduced.home.rglob("*")) == []
    assert sorted(reproduced.temporary.rglob("*")) == []
    assert (reproduced.folder / ".cache/dvc/repo").is_dir()


def test_a_second_repro_runs_nothing(reproduced: Project) -> None:
    assert reproduced.repro() == set()
    assert reproduced.git("status", "--porcelain") == ""
    assert live_runs(reproduced) == MIRRORED


def test_everything_run_again_elsewhere_gives_the_same_bytes(project: Project) -> None:
    """From the text to the bundles of the variant that reads both sides, which has what the other has and more."""
    before = results(project)
    ran = project.repro("--force", "verify@bilstm", "diagnose@bilstm")
    assert ran == {"fetch", "tokenize", *stages_of("bilstm")}
    assert results(project) == before


def test_an_experiment_runs_the_stages_of_the_edited_block_alone_and_is_a_run_of_its_own(project: Project) -> None:
    sync(project)
    change = "variants.gru.hidden_size=24"
    ran = project.stages_run_by("dvc", "exp", "run", "--name", "wider", "--set-param", change)
    assert ran == {"report", "track", *stages_of("gru")}
    assert live_runs(project) == MIRRORED | {"wider": ["gru"]}
    shown = json.loads(project.run("dvc", "exp", "show", "--json").stdout)
    assert "wider" in [
        row["name"] for commit in shown for found in commit["experiments"] or [] for row in found["revs"]
    ]
    assert "variants.gru.hidden_size" in project.run("dvc", "params", "diff").stdout
    (command,) = re.findall(r"^dvc exp show .*$", (CHECKOUT / "docs/pipeline.md").read_text(encoding="utf-8"), re.M)
    header, *rows = project.run("sh", "-c", f"{command} --csv").stdout.splitlines()
    columns = header.split(",")
    assert len(columns) <= 10
    assert {"test_bpb", "pseudo_test_bpb"} & set(columns)
    assert "variants.gru.hidden_size" in columns
    assert any("wider" in row and ",24" in row for row in rows)
    assert project.repro() == set()


def test_a_new_cell_is_one_file_one_line_in_the_registry_and_one_block_and_a_new_variant_is_the_block(
    project: Project,
) -> None:
    """A cell whose state is a row, one whose state is a matrix a head; a bidirectional GRU, an LSTM in blocks."""
    add_cell(project, "mgu", "MGU", Path(__file__).with_name("minimal_gated_unit.py"))
    add_cell(project, "matrix", "LinearAttention", CHECKOUT / "tests/cells/linear_attention.py", heads=2)
    add_block(project, "bigru", cell="gru", bidirectional=True)
    add_block(project, "lstm_blocks", cell="lstm", block="residual", conv=4, mlp_ratio=1.0)
    changed = {line[3:] for line in project.git("status", "--porcelain").splitlines()}
    files = {f"src/recurlm/variants/{name}.py" for name in ("__init__", "mgu", "matrix")}
    assert changed == {"params.yaml", *files}

    names = ("mgu", "matrix", "bigru", "lstm_blocks")
    assert project.repro() == {"report", "track", *stages_of(*names)}
    metrics = project.folder / "data/metrics"
    for name in names:
        results = json.loads((metrics / f"verification/{name}.json").read_bytes())
        assert all(results[precision]["verified"] is True for precision in ("fp32", "int8", "int4"))
        # Every product with weights is quantized; those of two activations are spelled out as sums in fp32.
        assert results["int8"]["products"].keys() == {"int8"}
        for page in (project.folder / "data/report").glob("*.*"):
            if page.suffix in {".md", ".html"}:
                assert name in page.read_text(encoding="utf-8"), page
    assert json.loads((metrics / "mgu.json").read_bytes())["test"]["bits_per_byte"] > 0
    bundle = json.loads((project.folder / "data/onnx/matrix/int8/bundle.json").read_bytes())
    assert list(bundle["state_spec"].values()) == [[2, 5, 8]]
    for name in ("bigru", "lstm_blocks"):
        assert json.loads((metrics / f"diagnostics/{name}.json").read_bytes())["gates"]["reported"]
    scores = json.loads((metrics / "bigru.json").read_bytes())
    assert scores["objective"] == "cloze"
    assert scores["test"]["pseudo_bits_per_byte"] > 0


def add_cell(project: Project, name: str, cell: str, source: Path, **options: Any) -> None:
    variants = project.folder / "src/recurlm/variants"
    shutil.copy(source, variants / f"{name}.py")
    registry = (variants / "__init__.py").read_text(encoding="utf-8")
    registry = registry.replace("\n\nREGISTRY", f"\nfrom recurlm.variants.{name} import {cell}\n\nREGISTRY", 1)
    (variants / "__init__.py").write_text(registry.replace("\n}", f'\n    "{name}": {cell},\n}}'), encoding="utf-8")
    add_block(project, name, cell=name, **options)


def add_block(project: Project, name: str, **options: Any) -> None:
    block = {name: {**TINY_VARIANT, "muon_lr": 0.01, "adamw_lr": 0.004, **options}}
    with (project.folder / "params.yaml").open("a", encoding="utf-8") as params:
        params.write("".join(f"  {line}\n" for line in yaml.safe_dump(block).splitlines()))


@pytest.mark.parametrize(
    ("file", "stale"),
    [
        ("src/recurlm/verify/checks.py", {"verify"}),
        ("src/recurlm/training/batches.py", {"train", "diagnose"}),
        ("src/recurlm/export/quantize.py", {"export"}),
        ("src/recurlm/diagnostics/context.py", {"diagnose"}),
        ("src/recurlm/variants/compose.py", {"train"}),
        ("src/recurlm/serving/app.py", set()),
        ("src/recurlm/report/build.py", {"report"}),
        ("src/recurlm/tracking/view.py", {"track"}),
    ],
)
def test_an_edited_file_makes_only_the_stages_that_use_it_stale(
    reproduced: Project, file: str, stale: set[str]
) -> None:
    """What follows becomes stale once these have run, and only if they give something else."""
    path = reproduced.folder / file
    before = path.read_bytes()
    path.write_bytes(before + b"\n# edited\n")
    try:
        changed = json.loads(reproduced.run("dvc", "status", "--json", "dvc.yaml").stdout)
    finally:
        path.write_bytes(before)
    assert {stage.split("@")[0] for stage in changed} == stale


@pytest.mark.parametrize(
    "change",
    [
        {"checkpoint": {"every_seconds": 5}},
        {"machine": {"threads": 1, "processes": 2}},
        {"machine": {"progress_seconds": 2}},
    ],
)
def test_what_changes_no_result_retrains_nothing(reproduced: Project, change: dict[str, Any]) -> None:
    path = reproduced.folder / "params.yaml"
    before = path.read_bytes()
    reproduced.set_params({"train": change})
    try:
        changed = json.loads(reproduced.run("dvc", "status", "--json", "dvc.yaml").stdout)
    finally:
        path.write_bytes(before)
    assert changed == {}


def test_dvc_metrics_show_is_a_row_a_variant_with_at_most_ten_columns(reproduced: Project) -> None:
    shown = json.loads(reproduced.run("dvc", "metrics", "show", "--json").stdout)
    files = shown[""]["data"]
    assert set(files) == {f"data/metrics/summary/{variant}.json" for variant in VARIANTS}
    columns = {name for file in files.values() for name in file["data"]}
    assert len(columns) <= 10
    assert {"test_bpb", "pseudo_test_bpb", "parameters", "verified", "bundle_mb"} <= columns


def test_queued_experiments_are_run_elsewhere_by_two_workers_without_setting_anything(project: Project) -> None:
    """DVC's default place for its notes, as in a clone in which `make` never ran."""
    project.git("config", "--local", "user.name", "a test")
    (project.folder / ".dvc/config.local").unlink()
    for name, size in (("smaller", 280), ("larger", 290)):
        change = f"tokenize.vocab_size={size}"
        queued = project.run("dvc", "exp", "run", "--queue", "--name", name, "-S", change, "tokenize")
        assert queued.returncode == 0, queued.stderr
    started = project.run("dvc", "queue", "start", "--jobs", "2")
    assert started.returncode == 0, started.stderr
    end = time.monotonic() + 240
    while (shown := project.run("dvc", "queue", "status").stdout).count("Success") < 2 and time.monotonic() < end:
        assert "Failed" not in shown, shown
        time.sleep(1)
    assert shown.count("Success") == 2, shown
    listed = project.run("dvc", "exp", "list").stdout
    assert "smaller" in listed
    assert "larger" in listed
    project.run("dvc", "queue", "stop")


def test_deleted_outputs_and_a_deleted_store_come_back_without_training(project: Project) -> None:
    before = results(project)
    shutil.rmtree(project.folder / ".mlflow", ignore_errors=True)
    for name in ("corpus", "tokens", "models", "graphs", "onnx", "report", "timings"):
        shutil.rmtree(project.folder / "data" / name, ignore_errors=True)

    assert project.repro() == {"report"}
    assert results(project) == before
    sync(project)
    assert live_runs(project) == MIRRORED
    assert list((project.folder / "data/report").glob("*.html"))


@pytest.mark.parametrize(
    "command",
    [
        ("dvc", "metrics", "show"),
        ("dvc", "plots", "show", "--json"),
    ],
    ids=lambda command: " ".join(command),
)
def test_dvc_shows_the_results(reproduced: Project, command: tuple[str, ...]) -> None:
    result = reproduced.run(*command)
    assert result.returncode == 0, result.stderr
    assert "ERROR" not in result.stderr
    for variant in VARIANTS:
        assert variant in result.stdout
