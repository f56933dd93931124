"""Training on two machines, network namespaces joined by veth: killed workers, a pulled cable, a lost machine."""

from __future__ import annotations

import csv
import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest
from configs import CHECKOUT
from tiny_training import write_tiny_project

RESULTS = ("model.safetensors", "model.json", "curve.csv", "log.csv")
NATS = 1e-3  # between runs whose sums have another order

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is left of the scenarios of machines.py."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(CHECKOUT / "benchmarks"))
        if not importlib.import_module("network").permitted():
            pytest.skip("no network namespaces here: they need Linux and root")
    folder = tmp_path_factory.mktemp("machines")
    write_tiny_project(
        folder / "prepared",
        {
            "data": {"epochs": 0.4},
            "checkpoint": {"every_seconds": 0},
            "machine": {"timeout_seconds": 8},
            "precision": "fp32",
        },
    )
    script = str(Path(__file__).with_name("machines.py"))
    done = subprocess.run([sys.executable, script, str(folder)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return folder


def results(scenario: Path) -> dict[str, bytes]:
    assert not (scenario / "2/data/models").exists(), "the first machine writes"
    return {name: (scenario / "1/data/models/gru" / name).read_bytes() for name in RESULTS}


def said(scenario: Path) -> list[str]:
    """The lines of all workers."""
    logs = sorted(scenario.glob("[12]/said.*"))
    return [line for log in logs for line in log.read_text(encoding="utf-8").replace("\r", "\n").splitlines()]


def test_twenty_kills_at_random_moments_change_no_byte_of_the_result(folder: Path) -> None:
    assert sum("goes on from its checkpoint" in line for line in said(folder / "killed")) >= 15
    assert results(folder / "killed") == results(folder / "undisturbed")


def test_a_cable_that_is_out_for_long_is_said_in_one_line_and_changes_no_byte(folder: Path) -> None:
    lines = [line for line in said(folder / "unplugged") if "gone, or gave no answer" in line]
    assert lines
    assert all(re.match(r"recurlm: (another process|process \d of 0 to 1) is gone", line) for line in lines)
    assert results(folder / "unplugged") == results(folder / "undisturbed")


def test_a_machine_that_goes_away_and_comes_back_leaves_the_losses_as_they_were(folder: Path) -> None:
    undisturbed, away = (losses(folder / name) for name in ("undisturbed", "away"))
    assert undisturbed.keys() == away.keys()
    assert max(abs(away[point] - undisturbed[point]) for point in away) < NATS
    assert results(folder / "away") != results(folder / "undisturbed")
    assert max(undisturbed.values()) - min(undisturbed.values()) > 100 * NATS


def losses(scenario: Path) -> dict[tuple[str, str], float]:
    """The losses of the curve and of the log, by step."""
    values = {}
    for name in ("curve.csv", "log.csv"):
        for row in csv.DictReader(results(scenario)[name].decode().splitlines()):
            values |= {(row["step"], key): float(row[key]) for key in row if key.endswith("loss") and row[key]}
    return values
