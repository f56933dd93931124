"""docs/lesson.md is true: its figures are those of data/metrics, its commands run as they stand, its links lead on."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from subprocess import CompletedProcess

import pytest
from tiny_project import CHECKOUT, Project

from recurlm.report.lesson.marks import OPENED, fill
from recurlm.report.lesson.measured import read

pytestmark = pytest.mark.xdist_group("project")

PAGE = CHECKOUT / "docs/lesson.md"
TEXT = PAGE.read_text(encoding="utf-8")
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", TEXT, re.DOTALL | re.MULTILINE))
COMMANDS = [
    (title, block) for title, text in SECTIONS.items() for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
]

NUMBER = r"\d+\.\d+"
# What each block prints, in the order of the page: the exact text where it follows from the page alone.
PRINTS = [
    "read 1, hold 0.762\nread 0, hold 0.363\nread 0, hold 0.180\n"
    "read 0, hold 0.090\nread 0, hold 0.045\nread 0, hold 0.022\n",
    rf"('.+' +layer0\.h norm {NUMBER}\n){{8,}}",
    "forget gate 0.119: after 20 tokens 0.000 of the cell is left\n"
    "forget gate 0.500: after 20 tokens 0.000 of the cell is left\n"
    "forget gate 0.881: after 20 tokens 0.079 of the cell is left\n"
    "forget gate 0.993: after 20 tokens 0.874 of the cell is left\n",
    rf"('.+' +layer0\.reset {NUMBER}   layer0\.update {NUMBER}\n){{8,}}",
    r"rnn +0 gates +131,584 weights +\d+ µs a token\n"
    r"gru +2 gates +394,752 weights +\d+ µs a token\n"
    r"lstm +3 gates +526,336 weights +\d+ µs a token\n",
    r"(?s)KING\.\n.+KING\.\n.+",
    r"To be or .* to be, that is the question:\n",
    "16 numbers from the left, 32 in all\ntoken 5 is another; predictions that changed: 0 1 2 3 4 6 7 8 9 10 11\n",
    r"RNN  U × 0\.5 .+49 back: \d\.\de-1\d\n(RNN  U × [12]\.0 .+\n){2}LSTM U × 0\.1 .+49 back: \d\.\de[+-]0[01]\n",
    "",
    r"(?s).*params\.yaml +variants\.gru\.dropout +- +0\.4.*"
    r"diff --git a/data/metrics/gru\.json.*\+ +\"nats_per_token\".*",
    r" +\d,?\d* tokens: \d+ µs a token\n +\d+,\d+ tokens: \d+ µs a token\n",
]


@pytest.fixture(scope="module")
def learner(reproduced: Project, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Project]:
    """A project in which the page's commands run one after the other, as a reader types them."""
    root = tmp_path_factory.mktemp("lesson")
    yield reproduced.copy(root)
    shutil.rmtree(root)


def run(project: Project, block: str) -> str:
    """What a block of the page prints, which must succeed."""
    result = project.run("bash", "-euo", "pipefail", "-c", block)
    assert result.returncode == 0, result.stdout[-3000:] + result.stderr[-3000:]
    return result.stdout


@pytest.mark.parametrize("number", range(len(COMMANDS)), ids=[title for title, _ in COMMANDS])
def test_its_command_runs_and_prints_what_the_page_is_about(learner: Project, number: int) -> None:
    before = learner.git("status", "--porcelain")
    printed = run(learner, COMMANDS[number][1])
    assert re.fullmatch(PRINTS[number], printed) or printed == PRINTS[number], printed
    assert learner.git("status", "--porcelain") == before, "a command of the page left something behind"


def test_the_tool_fills_the_page_with_what_the_stages_wrote_and_notices_another_number(
    learner: Project, refuses: Callable[[CompletedProcess[str], str], None]
) -> None:
    tool = (sys.executable, "-m", "recurlm.report.lesson")
    assert learner.run(*tool).returncode == 0
    page = (learner.folder / "docs/lesson.md").read_text(encoding="utf-8")
    lesson = json.loads((learner.folder / "data/metrics/diagnostics/gru.json").read_bytes())["lesson"]
    assert f"lesson.state_size , -->{lesson['state_size']:,}<!-- /figure -->" in page
    assert re.search(r"^\| gru \| 2 \| 1 × 16 \| 16 \|", page, re.MULTILINE)
    assert learner.run(*tool, "--check").returncode == 0
    (learner.folder / "docs/lesson.md").write_text(page.replace("| gru | 2 |", "| gru | 7 |"), encoding="utf-8")
    refuses(learner.run(*tool, "--check"), "its figures are not those of data/metrics")
    learner.git("restore", "docs/lesson.md")


def test_every_section_has_a_command_to_try_and_a_file_to_read() -> None:
    assert len(PRINTS) == len(COMMANDS)
    assert {title for title, _ in COMMANDS} == set(SECTIONS)
    for title, text in SECTIONS.items():
        assert re.search(r"\]\(\.\./src/recurlm/[a-z_/]+\.py\)", text), title


def test_its_links_lead_somewhere() -> None:
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in SECTIONS}
    for target in re.findall(r"\]\((.+?)\)", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)):
        assert target[1:] in anchors if target.startswith("#") else (PAGE.parent / target).is_file(), target


def test_its_figures_are_those_of_the_committed_metrics() -> None:
    measured = read(CHECKOUT)
    missing = [f"{part}/{name}.json" for name in measured.variants for part in ("diagnostics", "perplexity", "samples")]
    missing = [file for file in missing if not (CHECKOUT / "data/metrics" / file).is_file()]
    if missing:
        pytest.skip(f"data/metrics lacks what the stages diagnose@… write: {', '.join(missing)}")
    assert fill(TEXT, measured, timings=False) == TEXT, "python -m recurlm.report.lesson"
    # A machine without timings of its own has no speeds to show.
    assert "not measured yet" not in re.sub(r"<!-- timing: .*?<!-- /timing -->", "", TEXT, flags=re.DOTALL)


def test_no_mark_takes_a_line_of_prose_out_of_its_paragraph() -> None:
    # Markdown takes a line that begins with a comment for HTML: fine for a mark alone, not for a figure in a sentence.
    assert OPENED.search(TEXT)
    for line in TEXT.splitlines():
        assert not line.lstrip().startswith("<!--") or re.fullmatch(r"<!-- (/|text: |timing: )[a-z ]+ -->", line), line
