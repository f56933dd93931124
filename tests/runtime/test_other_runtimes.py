"""Bundles run elsewhere: in plain onnxruntime without a warning, in onnx.reference, in tract, by the docs' own loop."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tiny_bundles import TinyBundles
from tiny_project import CHECKOUT

LOAD = """
import sys
import onnxruntime
for file in sys.argv[1:]:
    onnxruntime.InferenceSession(file)
"""
PRECISIONS = ("fp32", "int8", "int4")
DRIVER = CHECKOUT / "docs/deploy/step.py"
TOKENS, TEXTS = 12, 2


@pytest.fixture
def runtimes(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("runtimes")


@pytest.mark.parametrize("variant", ["lstm", "bilstm"])
def test_plain_onnxruntime_prints_nothing(bundles: TinyBundles, variant: str) -> None:
    files = [str(file) for precision in PRECISIONS for file in bundles(variant, "bpe", precision).glob("*.onnx")]
    assert len(files) >= 9
    loaded = subprocess.run([sys.executable, "-c", LOAD, *files], capture_output=True, text=True, check=True)
    assert (loaded.stdout, loaded.stderr) == ("", "")


def rows(runtimes: Any, name: str, folder: Path, environments: Path) -> dict[str, dict[str, Any]]:
    """What became of each file of a bundle in a runtime."""
    description = json.loads((folder / "bundle.json").read_text())
    jobs = runtimes.sampled(folder, description, TEXTS, TOKENS)
    known, answers = (runtimes.run(each, jobs, environments)["jobs"] for each in ("onnxruntime", name))
    return {
        Path(job["file"]).name: runtimes.compared(job, right, answer, TOKENS)
        for job, right, answer in zip(jobs, known, answers, strict=True)
    }


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_onnx_reference_gives_the_same_tokens(
    runtimes: Any, bundles: TinyBundles, tmp_path: Path, precision: Any
) -> None:
    measured = rows(runtimes, "onnx.reference", bundles("lstm", "bpe", precision), tmp_path)
    assert measured["generator.onnx"]["equal_texts"] == measured["step.onnx"]["equal_texts"] == TEXTS
    assert measured["scorer.onnx"]["largest_difference_nats"] < runtimes.NATS


@pytest.mark.system
def test_tract_gives_the_same_tokens_by_the_loop_of_the_docs(
    runtimes: Any, bundles: TinyBundles, tmp_path: Path
) -> None:
    folder = bundles("lstm", "bpe", "int8")
    measured = rows(runtimes, "tract", folder, tmp_path)
    assert measured["step.onnx"]["equal_texts"] == TEXTS
    printed = [
        by_the_docs(python, folder, temperature)
        for python in (sys.executable, str(tmp_path / "tract/bin/python"))
        for temperature in ("0", "0.8")
    ]
    assert printed[:2] == printed[2:]


def by_the_docs(python: str, folder: Path, temperature: str) -> str:
    command = [python, str(DRIVER), str(folder), "20", temperature, "1", "0", "45", "33"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.parametrize("precision", ["int8", "int4"])
def test_the_loop_of_the_docs_gives_the_generators_tokens(
    runtimes: Any, bundles: TinyBundles, tmp_path: Path, precision: Any
) -> None:
    """Both draw from the same numbers, the docs by sums of exponentials, the graph by sums of whole numbers."""
    folder = bundles("lstm", "bpe", precision)
    description = json.loads((folder / "bundle.json").read_text())
    jobs = runtimes.sampled(folder, description, TEXTS, TOKENS)
    steps, generated, _ = runtimes.run("onnxruntime", jobs, tmp_path)["jobs"]
    assert [text["tokens"][0] for text in generated["results"]] == steps["results"]
    assert len({tuple(text) for text in steps["results"]}) == TEXTS
