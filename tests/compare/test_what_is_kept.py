"""What the comparison keeps from one run to the next is used again only where nothing changed that it hangs on."""

from __future__ import annotations

import re
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from configs import CHECKOUT, merged
from test_compare import SMALL, project, write_compare  # noqa: F401

from recurlm.compare import own_files, runs, settings, speed, tune
from recurlm.compare.settings import Compare, read_plan
from recurlm.storage import write_json


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
