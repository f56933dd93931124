"""The check with which most reports end: quick, and never wrong about what is new."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from fabricated_results import write_results

from recurlm.report import fingerprint
from recurlm.report.build import build


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_results(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    "file",
    [
        "params.yaml",
        "data/corpus/manifest.json",
        "data/tokens/manifest.json",
        "data/models/rnn/model.json",
        "data/models/rnn/curve.csv",
        "data/models/rnn/log.csv",
        "data/metrics/rnn.json",
        "data/metrics/verification/rnn.json",
        "data/onnx/rnn/fp32/bundle.json",
        "data/timings/train-rnn.json",
        "data/timings/generate-rnn.json",
        "data/metrics/perplexity/rnn.json",
        "data/metrics/diagnostics/rnn.json",
        "data/metrics/samples/rnn.json",
    ],
)
def test_a_report_is_stale_when_anything_in_it_changes_or_goes(root: Path, file: str) -> None:
    hashes = {fingerprint.inputs_hash(root)}
    (root / file).write_bytes((root / file).read_bytes() + b" ")
    hashes.add(fingerprint.inputs_hash(root))
    (root / file).unlink()
    hashes.add(fingerprint.inputs_hash(root))
    assert len(hashes) == 3


def test_what_dvc_notes_of_the_report_itself_makes_no_report_stale(root: Path) -> None:
    before = fingerprint.inputs_hash(root)
    lock = yaml.safe_load((root / "dvc.lock").read_bytes())
    lock["stages"]["report"] = {"cmd": "another"}
    (root / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    assert fingerprint.inputs_hash(root) == before
    lock["stages"]["train@rnn"]["outs"][0]["md5"] = "another"
    (root / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    assert fingerprint.inputs_hash(root) != before


@pytest.mark.parametrize("file", ["index.html", "report.md", "curves.svg", "curves.csv", fingerprint.FILE])
def test_a_page_that_was_deleted_or_changed_is_made_again(root: Path, file: str) -> None:
    made = build(root, "inputs")
    assert fingerprint.read(root) == made
    path = root / "data/report" / file
    content = path.read_bytes()
    path.unlink()
    assert fingerprint.read(root) is None
    path.write_bytes(content.replace(b"r", b"R", 1) if file != fingerprint.FILE else b"{}")
    assert fingerprint.read(root) is None
