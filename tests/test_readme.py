"""The README is true: its numbers are those of data/metrics, its Python runs, its tree and its commands are there."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from tiny_project import CHECKOUT, Project

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
ROWS = {
    cells[0]: cells[1:]
    for cells in ([cell.strip(" *") for cell in line.strip("|").split("|")] for line in README.splitlines())
    if (CHECKOUT / f"data/metrics/{cells[0]}.json").is_file()
}


@pytest.mark.parametrize("variant", ["rnn", "gru", "lstm", "bilstm"])
def test_the_table_says_what_was_measured(variant: str) -> None:
    metrics = json.loads((CHECKOUT / f"data/metrics/{variant}.json").read_bytes())
    proofs = json.loads((CHECKOUT / f"data/metrics/proof/{variant}.json").read_bytes())
    assert all(proofs[precision]["passed"] is True for precision in ("fp32", "int8", "int4"))
    pseudo = "" if metrics["protocol"] == "streamed" else "pseudo_"
    test = metrics["test"]
    expected = [f"{test[f'{pseudo}bits_per_byte']:.3f}", f"{test[f'{pseudo}perplexity_per_token']:.1f}"]
    assert [cell for cell in ROWS[variant] if cell != "—"][2:4] == expected
    assert f"{metrics['parameters']:,}" in ROWS[variant]


def test_gates_beat_no_gates() -> None:
    found = {name: float(ROWS[name][2]) for name in ("rnn", "gru", "lstm")}
    assert found["gru"] < found["rnn"]
    assert found["lstm"] < found["rnn"]


@pytest.mark.parametrize("block", BLOCKS, ids=["runtime", "onnxruntime"])
def test_its_python_runs(reproduced: Project, block: str) -> None:
    result = reproduced.run(sys.executable, "-c", block.replace("data/onnx/lstm", "data/onnx/gru"))
    assert result.returncode == 0, result.stderr
    assert len(result.stdout) > 20


def test_its_tree_is_the_tree() -> None:
    tree = re.search(r"```\n(params\.yaml.*?)```", README, re.DOTALL)
    assert tree
    for line in tree[1].splitlines():
        name = line.split()[0]
        place = CHECKOUT / ("src/recurlm" if line.startswith("  ") else "") / name
        assert place.exists() or name == "data/", name
    packages = {path.name for path in (CHECKOUT / "src/recurlm").iterdir() if (path / "__init__.py").is_file()}
    assert packages <= {Path(line.split()[0]).name for line in tree[1].splitlines()}


def test_its_make_targets_are_there() -> None:
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make ([a-z]+)|`make ([a-z]+)`", README, re.MULTILINE):
        assert re.search(rf"^{''.join(target)}:", makefile, re.MULTILINE), target
