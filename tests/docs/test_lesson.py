"""docs/lesson.md is true: its figures are those of data/metrics, its commands run as they stand, its links lead on."""

from __future__ import annotations

import json
import math
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import torch
from tiny_project import CHECKOUT, Project

from recurlm.report.docs import OPENED, fill, read

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
    "h: (2, 128) c: (2, 128)\nforward and step agree: True\n",
    r"(?s)KING\.\n.+KING\.\n.+",
    "bidirectional=False  y (4, 10, 32)  h (2, 4, 32)  c (2, 4, 32)\n"
    "bidirectional=True   y (4, 10, 64)  h (4, 4, 32)  c (4, 4, 32)\n",
    r"To be or .* to be, that is the question:\n",
    "16 numbers from the left, 32 in all\ntoken 5 is another; predictions that changed: 0 1 2 3 4 6 7 8 9 10 11\n",
    r"RNN  U × 0\.5 .+49 back: \d\.\de-1\d\n(RNN  U × [12]\.0 .+\n){2}LSTM U × 0\.1 .+49 back: \d\.\de[+-]0[01]\n",
    "",
    r"(?s).*params\.yaml +variants\.gru\.dropout +- +0\.4.*"
    r"diff --git a/data/metrics/gru\.json.*\+ +\"nats_per_token\".*",
    r" +\d,?\d* tokens: \d+ µs a token\n +\d+,\d+ tokens: \d+ µs a token\n",
    "temperature 0.5: 0.78 0.20 0.02\ntemperature 1.0: 0.60 0.30 0.10\ntemperature 2.0: 0.47 0.33 0.19\n",
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
    tool = (sys.executable, "-m", "recurlm.report.pages", "docs/lesson.md")
    assert learner.run(*tool).returncode == 0
    page = (learner.folder / "docs/lesson.md").read_text(encoding="utf-8")
    lesson = json.loads((learner.folder / "data/metrics/diagnostics/gru.json").read_bytes())["lesson"]
    assert f"lesson.state_size , -->{lesson['state_size']:,}<!-- /figure -->" in page
    assert re.search(r"^\| gru \| 2 \| 1 × 16 \| 16 \|", page, re.MULTILINE)
    assert learner.run(*tool, "--check").returncode == 0
    (learner.folder / "docs/lesson.md").write_text(page.replace("| gru | 2 |", "| gru | 7 |"), encoding="utf-8")
    refuses(learner.run(*tool, "--check"), "docs/lesson.md is not what the results say")
    learner.git("restore", "docs/lesson.md")


def test_every_section_has_a_command_to_try_and_a_file_to_read() -> None:
    assert len(PRINTS) == len(COMMANDS)
    assert {title for title, _ in COMMANDS} == set(SECTIONS)
    for title, text in SECTIONS.items():
        assert re.search(r"\]\(\.\./src/recurlm/[a-z_/]+\.py\)", text), title


def test_the_lessons_own_code_runs_learns_and_reads_the_whole_prompt(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code = "\n\n\n".join(re.findall(r"```python\n(.*?)```", SECTIONS["The lesson's code"], re.DOTALL))
    assert 55 <= len(code.splitlines()) <= 75
    tiny = {"steps, rows, window = 300, 16, 64": "steps, rows, window = 40, 4, 16", "hidden_size=128": "hidden_size=32"}
    for shown, smaller in tiny.items():
        assert shown in code
        code = code.replace(shown, smaller)
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs/lesson.md").write_text("The state is all. " * 40, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    exec(code, names)
    printed = capsys.readouterr().out
    assert re.fullmatch(r"(?s)step 40: \d\.\d\d nats a token, perplexity \d+\.\d\nThe state is .{200}\n", printed), (
        printed
    )
    assert names["loss"].item() < 2.3 < math.log(len(names["characters"])) + 0.1
    model = names["model"].eval()
    logits, (h, c) = model(torch.zeros(3, 5, dtype=torch.long))
    assert logits.shape == (3, 5, len(names["characters"]))
    assert h.shape == c.shape == (2, 3, 32)
    # At a temperature near 0 the text is what the whole prompt leads to, and not what its last character does.
    follow, prompt = [], "state"
    read, state = torch.tensor([[names["ids"][each] for each in prompt]]), None
    for _ in range(8):
        logits, state = model(read, state)
        read = logits[:, -1:].argmax(-1)
        follow.append(names["characters"][read.item()])
    assert names["generate"](model, prompt, length=8, temperature=1e-4) == prompt + "".join(follow)


def test_its_links_lead_somewhere() -> None:
    anchors = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in SECTIONS}
    for target in re.findall(r"\]\((.+?)\)", re.sub(r"```.*?```", "", TEXT, flags=re.DOTALL)):
        assert target[1:] in anchors if target.startswith("#") else (PAGE.parent / target).is_file(), target


def test_its_figures_are_those_of_the_committed_metrics() -> None:
    measured = read(CHECKOUT)
    names = measured.results.params.variants
    missing = [f"{part}/{name}.json" for name in names for part in ("diagnostics", "perplexity", "samples")]
    missing = [file for file in missing if not (CHECKOUT / "data/metrics" / file).is_file()]
    if missing:
        pytest.skip(f"data/metrics lacks what the stages diagnose@… write: {', '.join(missing)}")
    assert fill(TEXT, measured, timings=False) == TEXT, "python -m recurlm.report.pages docs/lesson.md"
    # A machine without timings of its own has no speeds to show.
    assert "not measured yet" not in re.sub(r"<!-- timing: .*?<!-- /timing -->", "", TEXT, flags=re.DOTALL)


def test_no_mark_takes_a_line_of_prose_out_of_its_paragraph() -> None:
    # Markdown takes a line that begins with a comment for HTML: fine for a mark alone, not for a figure in a sentence.
    assert OPENED.search(TEXT)
    for line in TEXT.splitlines():
        assert not line.lstrip().startswith("<!--") or re.fullmatch(r"<!-- (/|text: |timing: )[a-z ]+ -->", line), line
