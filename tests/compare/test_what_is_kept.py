"""What the comparison keeps from one run to the next is used again only where nothing changed that it hangs on."""

from __future__ import annotations

import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import yaml
from configs import CHECKOUT, merged
from test_compare import SMALL, project, write_compare  # noqa: F401

from recurlm.compare import own_files, runs, settings, speed, tune
from recurlm.compare.mirror import log_trials
from recurlm.compare.settings import Compare, read_plan
from recurlm.storage import write_json
from recurlm.tracking.store import DamagedStoreError, find


def test_own_files_that_were_edited_added_or_removed_are_read_again(
    project: Compare,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    start = runpy.run_path(str(CHECKOUT / "compare/start.py"))
    asked: list[str] = []

    def dvc(*arguments: str) -> None:
        asked.extend(arguments)
        if arguments[-1].endswith(":plan"):
            sys.exit(0)

    monkeypatch.setitem(start["main"].__globals__, "_dvc", dvc)
    monkeypatch.setattr(sys, "argv", ["start.py"])

    def is_forced() -> bool:
        asked.clear()
        with pytest.raises(SystemExit):
            start["main"]()
        assert asked[-2:] == ["compare/dvc.yaml:text", "compare/dvc.yaml:plan"]
        return "--force" in asked

    def read() -> None:
        runpy.run_path(str(CHECKOUT / "compare/text.py"), run_name="__main__")
        assert not is_forced()

    assert not is_forced()
    first, *_ = sorted(Path("my_text").glob("*.txt"))
    first.write_text(first.read_text(encoding="utf-8").replace("e", "E"), encoding="utf-8")
    assert is_forced()
    read()
    more = Path(shutil.copy(first, "my_text/more.txt"))
    assert is_forced()
    read()
    more.unlink()
    assert is_forced()
    params = settings.project()[1]
    packaged = params.model_copy(update={"fetch": params.fetch.model_copy(update={"source": "packaged"})})
    assert not own_files.changed(project, packaged)


@pytest.mark.parametrize(("place", "name"), [(runs, "__file__"), (runs, "settings_code"), (tune, "__file__")])
def test_trials_of_other_code_are_not_used_again(
    project: Compare,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    place: ModuleType,
    name: str,
) -> None:
    compare = write_compare(merged(SMALL, {"tune": {"trials": 1}}))

    def trials() -> int:
        tune.tune(compare, read_plan(project, "gru"))
        return capfd.readouterr().err.count("nats a token")

    assert trials() == 1
    assert trials() == 0
    edited = Path("edited.py")
    edited.write_text(Path(getattr(place, name)).read_text(encoding="utf-8") + "\n# edited\n", encoding="utf-8")
    monkeypatch.setattr(place, name, str(edited))
    assert trials() == 1


def test_speeds_are_measured_again_for_other_settings_and_threads(
    project: Compare,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    measured: list[int] = []

    def measure(plans: Any, texts: Any, rounds: int, seconds: float) -> dict[str, float]:
        measured.append(rounds)
        return {plan.variant: 1000.0 for plan in plans}

    monkeypatch.setattr(speed, "training_speeds", measure)
    monkeypatch.setattr(speed, "_generation", lambda *_: {})
    for name in project.variants:
        write_json(project.folder / f"models/{name}/1/model.json", {"sha256": name})
    plans, export = [read_plan(project, name) for name in project.variants], settings.project()[1].export
    for compare in (project, project, write_compare(merged(SMALL, {"speed": {"rounds": 2}}))):
        speed.speeds(compare, plans, export)
    assert measured == [1, 2]
    monkeypatch.setattr(speed.torch, "get_num_threads", lambda: 64)
    speed.speeds(compare, plans, export)
    assert measured == [1, 2, 2]


def test_stages_depend_on_the_statistics_and_drawings_that_they_import() -> None:
    stages = yaml.safe_load((CHECKOUT / "compare/dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage, names in (("score", ("runs",)), ("report", ("results", "page"))):
        deps = stages[stage].get("do", stages[stage])["deps"]
        for name in names:
            text = (CHECKOUT / f"src/recurlm/compare/{name}.py").read_text(encoding="utf-8")
            for module in re.findall(r"^from recurlm\.((?:diagnostics|report)\.\w+) import", text, re.MULTILINE):
                path = f"src/recurlm/{module.replace('.', '/')}.py"
                assert any(path == dep or path.startswith(f"{dep}/") for dep in deps), f"{stage}: {path}"


def test_scores_from_more_seeds_go_into_the_same_runs(
    project: Compare,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    compare = write_compare(SMALL | {"variants": ["gru"]})
    trials = [{"settings": {"dropout": rate}, "validation_nats_per_token": 4.0} for rate in (0.1, 0.2)]
    tuned = {"variant": "gru", "key": "a-key", "trials": trials, "best": {"dropout": 0.1}}
    write_json(compare.folder / "tuned/gru.json", tuned)

    def log(nats: float) -> list[str]:
        scores = dict.fromkeys(("nats_per_token", "perplexity_per_token", "bits_per_byte"), nats)
        return log_trials(Path(), compare, "comparison", {"variants": {"gru": scores}})

    where = "in MLflow's experiment comparison"
    assert log(4.5) == [f"logged gru and 2 trials {where}"]
    assert log(4.75) == [f"logged new scores of gru {where}"]
    assert log(4.25) == [f"logged new scores of gru {where}"]
    assert log(4.25) == []
    with find(Path()).connected() as client:
        found = client.search_runs([client.get_experiment_by_name("comparison").experiment_id])
    assert len(found) == 3
    assert [run.data.metrics["test_nats_per_token"] for run in found if run.info.run_name == "gru"] == [4.25]


def test_a_damaged_store_is_one_line_after_the_table(
    project: Compare,  # noqa: F811
    capfd: pytest.CaptureFixture[str],
) -> None:
    report, written = runpy.run_path(str(CHECKOUT / "compare/report.py")), []

    def refuse(*_: Any) -> list[str]:
        raise DamagedStoreError(Path("mlflow.db"), "not a database")

    stubs = {
        "speed": SimpleNamespace(speeds=lambda *_: {}),
        "results": SimpleNamespace(collect=lambda *_: {}),
        "page": SimpleNamespace(write=lambda *_: written.append("the table")),
        "log_trials": refuse,
    }
    report["main"].__globals__.update(stubs)
    report["main"]()
    assert written == ["the table"]
    (line,) = capfd.readouterr().err.splitlines()[-1:]
    assert line.startswith("mlflow.db: a damaged database (not a database)")


SLOW_DVC = """#!/bin/sh
trap 'sleep 1; echo saved; exit 130' INT
echo begun
while :; do sleep 0.1; done
"""


def test_ctrl_c_leaves_a_stage_time_to_save(tmp_path: Path) -> None:
    (tmp_path / "dvc").write_text(SLOW_DVC, encoding="utf-8")
    (tmp_path / "dvc").chmod(0o755)
    code = f"""
import runpy, sys
start = runpy.run_path({str(CHECKOUT / "compare/start.py")!r})
sys.executable = {str(tmp_path / "python")!r}
start["_dvc"]("compare/dvc.yaml")
"""
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdout=pipe, stderr=pipe, text=True, start_new_session=True
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "begun\n"
        subprocess.run(["kill", f"-{signal.SIGINT.value}", "--", f"-{process.pid}"], check=True)
        said = process.communicate(timeout=60)
    assert (*said, process.returncode) == ("saved\n", "", 130)
