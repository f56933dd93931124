"""The README is true: its numbers are those of data/metrics, its Python runs, its tree and its commands are there."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
from tiny_project import CHECKOUT, Project

pytestmark = pytest.mark.xdist_group("project")

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def rows(after: str) -> dict[str, list[str]]:
    """The cells of a table with a row a variant, by their first: of the first table that stands after some words."""
    table = README[README.index(after) :].split("\n\n", 2)[1]
    lines = ([cell.strip(" *") for cell in line.strip("|").split("|")] for line in table.splitlines())
    return {cells[0]: cells[1:] for cells in lines if (CHECKOUT / f"data/metrics/{cells[0]}.json").is_file()}


ROWS = rows("38 plays of Shakespeare, 34 to learn from")
PRECISIONS = rows("Each is exported in fp32, int8 and int4.")


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


@pytest.mark.parametrize("variant", ["rnn", "gru", "lstm", "bilstm"])
def test_the_table_of_precisions_says_what_was_proven(variant: str) -> None:
    proofs = json.loads((CHECKOUT / f"data/metrics/proof/{variant}.json").read_bytes())
    losses = [f"{100 * proofs[precision]['perplexity_increase']:+.2f} %" for precision in ("int8", "int4")]
    same = [
        f"{proofs[precision]['greedy_tokens_identical'] + proofs[precision]['sampled_tokens_identical']:,}"
        for precision in ("int8", "int4")
    ]
    assert PRECISIONS[variant][3:] == [loss.replace("-", "−") for loss in losses] + same


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
