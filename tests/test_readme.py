"""README.md is true: its numbers are those of data/metrics, its Python runs, its tree is the project's."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from pages import README, Page, measured, result
from tiny_project import CHECKOUT, Project

pytestmark = pytest.mark.xdist_group("project")

VARIANTS = ["rnn", "gru", "lstm", "bilstm"]
CAUSAL = VARIANTS[:3]
LINES = README.text.splitlines()


def test_it_has_at_most_150_lines() -> None:
    assert len(LINES) <= 150


def test_its_first_40_lines_show_what_recurlm_is() -> None:
    screen = "\n".join(LINES[:40])
    assert screen.startswith("# recurlm\n\nrecurlm ")
    assert len(re.findall(r"^!\[.+\]\(docs/plots/\w+\.png\)$", screen, re.MULTILINE)) == 1
    assert re.search(r"```sh\nmake repro\b.*\nrecurlm generate .+\n```\n\n(<!-- .+ -->\n)?```text\n.+\n", screen)
    assert all(f"\n| {variant} |" in screen for variant in CAUSAL)


@pytest.mark.parametrize("variant", CAUSAL)
def test_its_table_is_that_of_the_comparison(variant: str) -> None:
    part = result("compare-plays")["variants"][variant]
    cells = list(README.table("Three cells with about equal numbers").by_first_cell[variant].values())
    low, high = part["perplexity_interval"]
    assert cells[1] == f"{part['perplexity_per_token']:.1f} ({low:.1f} to {high:.1f})"
    assert cells[0] == f"{part['parameters']:,}"
    assert cells[2] == f"{part['nats_spread']:.3f}"
    against = part["against_reference"]
    assert cells[3] == "—" if against is None else cells[3].endswith(f": {against['verdict']}")
    assert cells[-1] == f"{part['state_bytes']:,}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_it_says_how_the_effective_context_was_measured(variant: str) -> None:
    context = measured(f"diagnostics/{variant}")["context"]
    *lengths, longest = (str(cut["k"]) for cut in context["cut"])
    text = " ".join(README.text.split())
    assert f"the shortest of {', '.join(lengths)} and {longest} tokens of context" in text
    assert f"within {context['tolerance_nats']:g} nats of that with {context['context_tokens']}" in text


def test_its_losses_after_a_minute_are_those_of_the_benchmark() -> None:
    text = " ".join(README.text.split())
    minute = result("characters-60")["seeds"]["loss_cold_256"]
    ten, sixty = (result(f"characters-{seconds}-mixture") for seconds in (600, 3600))
    of_seeds, of_hour = (run["seeds"]["loss_cold_256"] for run in (ten, sixty))
    assert (ten["models"], sixty["models"], sixty["side_by_side"]) == (2, 3, 1)
    assert f"reaches {minute['mean']:.3f} ± {minute['spread']:.3f} nats per character" in text
    assert f"a mixture of two reached {of_seeds['mean']:.3f} ± {of_seeds['spread']:.3f} after ten minutes" in text
    assert f"of three, by one core, {of_hour['mean']:.3f} ± {of_hour['spread']:.3f} after sixty" in text


def test_its_text_begins_the_one_of_the_page_on_generation() -> None:
    page = Page("docs/generate.md")
    command, lines = re.search(r"^(recurlm generate .+) \| head -n (\d+)$", README.text, re.MULTILINE).groups()
    assert command in page.blocks("sh")[0].splitlines()
    assert README.blocks("text")[0].splitlines() == page.blocks("text")[0].splitlines()[: int(lines)]


@pytest.mark.parametrize("block", README.blocks("python"))
def test_its_python_runs(reproduced: Project, block: str) -> None:
    ran = reproduced.run(sys.executable, "-c", block.replace("data/onnx/lstm", "data/onnx/gru"))
    assert ran.returncode == 0, ran.stderr
    assert len(ran.stdout) > 20


def test_its_tree_is_the_tree() -> None:
    (tree,) = README.blocks("")
    for line in tree.splitlines():
        name = line.split()[0]
        place = CHECKOUT / ("src/recurlm" if line.startswith("  ") else "") / name
        assert place.exists() or name == "data/", name
    packages = {path.name for path in (CHECKOUT / "src/recurlm").iterdir() if (path / "__init__.py").is_file()}
    assert packages <= {Path(line.split()[0]).name for line in tree.splitlines()}


def test_it_links_every_page() -> None:
    for path in (CHECKOUT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"](docs/{path.name})" in README.text, path.name
        assert path.name == "README.md" or f"]({path.name})" in Page("docs/README.md").text, path.name
