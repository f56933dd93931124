"""The diagnostics on the page: complete, traced to their files, and with gaps where a file is missing."""

from __future__ import annotations

import csv
import json
import re
import shutil
from html import unescape
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from fabricated_results import VARIANTS, write_results

from recurlm import config
from recurlm.report import page
from recurlm.report.build import build
from recurlm.report.heat_map import HeatMap, StateTrace, TokenTrace
from recurlm.report.metrics import read_metrics
from recurlm.report.results import DIAGNOSTIC_FILES, load_results

PARTS = {
    "perplexity": ("Perplexity as papers report it", "Where the loss is"),
    "diagnostics": ("The lesson, measured", "Gradient flow", "Effective context", "Gates", "Overfitting and dropout"),
    "samples": ("Temperature",),
    "timings": ("Speed by length",),
}
EMPTY = HeatMap()


class Part(NamedTuple):
    """A section of the page."""

    html: str

    def all(self, pattern: str) -> list[str]:
        return [unescape(found) for found in re.findall(pattern, self.html, re.DOTALL)]

    @property
    def gaps(self) -> list[str]:
        return self.all(r'<p class="gap">(.*?)</p>')

    @property
    def variants(self) -> set[str]:
        """Those in the legends of its charts, and in its tables."""
        rows = [name.split(",")[0].split(" ")[0] for name in self.all(r'<th scope="row">(.*?)</th>')]
        return {*self.all(r'data-variant="(.*?)"'), *rows}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_results(tmp_path)
    return tmp_path


def content(root: Path, heat_map: HeatMap = EMPTY) -> dict[str, Any]:
    results = load_results(root, config.load(root / "params.yaml"))
    return page.context(results, read_metrics(results), (), heat_map)


def sections(root: Path, heat_map: HeatMap = EMPTY) -> dict[str, Part]:
    html = page.as_html("", content(root, heat_map))
    parts = re.findall(r'<section id="[^"]+">\s*<h2>(.*?)</h2>(.*?)</section>', html, re.DOTALL)
    return {unescape(title): Part(inside) for title, inside in parts}


def test_every_section_has_its_pictures_or_tables(root: Path) -> None:
    found = sections(root)
    for titles in PARTS.values():
        for title in titles:
            assert found[title].gaps == [], title
            assert found[title].variants >= {"rnn", "lstm"}, title
    for title in ("Gradient flow", "Effective context", "Gates", "Overfitting and dropout", "Temperature"):
        assert "<figure" in found[title].html, title
    assert set(found["Temperature"].all(r'class="temperatures.*?" data-variant="(.*?)"')) == set(VARIANTS)


@pytest.mark.parametrize("part", DIAGNOSTIC_FILES)
@pytest.mark.parametrize("damage", ["gone", "empty", "another shape", "no JSON"])
def test_a_file_that_is_missing_or_broken_costs_its_own_place_only(root: Path, part: str, damage: str) -> None:
    path = root / DIAGNOSTIC_FILES[part].format("lstm")
    stamp = {key: value for key, value in json.loads(path.read_bytes()).items() if key == "model_sha256"}
    if damage == "gone":
        path.unlink()
    else:
        path.write_text({"empty": "", "another shape": json.dumps({"lesson": 3, **stamp}), "no JSON": "{"}[damage])
    found = sections(root)
    for title in PARTS[part]:
        assert any(gap.startswith("lstm: ") and path.name in gap for gap in found[title].gaps), title
        assert "rnn" in found[title].variants
    others = [title for other, titles in PARTS.items() if other != part for title in titles]
    assert all(found[title].gaps == [] for title in others)


def test_one_temperature_and_one_dropout_twice_are_shown_once(root: Path) -> None:
    path = root / "data/metrics/samples/rnn.json"
    samples = json.loads(path.read_bytes())
    path.write_text(json.dumps(samples | {"temperatures": samples["temperatures"][:1] * 2}), encoding="utf-8")
    path = root / "data/metrics/diagnostics/rnn.json"
    diagnostics = json.loads(path.read_bytes())
    short = diagnostics["overfitting"]["short_runs"]
    short["runs"] = short["runs"][:1] * 2
    path.write_text(json.dumps(diagnostics), encoding="utf-8")
    found = sections(root)
    for title, row in (("Temperature", "rnn, 0.5"), ("Overfitting and dropout", "rnn, dropout 0")):
        assert found[title].all(r'<th scope="row">(.*?)</th>').count(row) == 1


def test_timings_of_another_model_are_a_gap(root: Path) -> None:
    (root / "data/models/rnn/model.safetensors").write_bytes(b"trained anew")
    assert sections(root)["Speed by length"].gaps[0].startswith("rnn: ")


def test_pseudo_numbers_stand_on_axes_of_their_own(root: Path) -> None:
    found = content(root)
    assert found["cloze"] == ("bilstm",), "whose name legends mark"
    for chart in (chart for charts in found["charts"].values() for chart in charts):
        kinds = {name.startswith("bi") for name in chart.variants}
        titles = re.findall(r'"title": "([^"]+)"', json.dumps(chart.spec))
        if any(re.search(r"\b(nats|bits|perplexity)\b", title) for title in titles):
            assert len(kinds) == 1, chart.caption
            assert kinds == {any("pseudo-" in title for title in titles)}, chart.caption


def test_every_section_names_the_files_of_its_numbers(root: Path) -> None:
    build(root)
    for title, section in sections(root).items():
        sources = section.all("<code>(.*?)</code>")
        assert sources or title == "How to read this"
        for source in sources:
            for name in VARIANTS:
                assert (root / source.replace("<variant>", name)).exists(), source


def test_no_text_of_a_model_becomes_markup(root: Path) -> None:
    build(root)
    html = (root / "data/report/index.html").read_text(encoding="utf-8")
    assert "<script>alert(1)" not in html
    assert "&lt;/script&gt;&lt;script&gt;alert(1)" in html
    trace = TokenTrace("rnn", "", "bits", [1.0], ["<i>"], [])
    drawn = sections(root, HeatMap(["</script><b>"], "validation", 1, [trace], []))["Token heat map"].html
    assert "</script><b>" not in drawn
    assert '<i>"' not in drawn


def test_the_heat_map_holds_the_states_of_each_variant(root: Path) -> None:
    state = StateTrace("layer0.h", 1, 0.5, "fw==", [0])
    heat_map = HeatMap(["to"], "validation", 1, [TokenTrace("rnn", "", "bits", [2.5], ["be"], [state])], [])
    drawn = sections(root, heat_map)["Token heat map"].html
    data = re.search(r'<script type="application/json">(\{"tokens".+?)</script>', drawn)
    assert data
    assert json.loads(data[1])["traces"][0]["states"][0]["values"] == "fw=="


def test_dvc_gets_its_curves_and_a_summary(root: Path) -> None:
    build(root)
    with (root / "data/report/gradient_flow.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {(row["variant"], row["moment"]) for row in rows} == {
        (name, moment) for name in VARIANTS for moment in ("before training", "after training")
    }
    summary = json.loads((root / "data/report/summary.json").read_bytes())
    assert summary["rnn"]["effective_context_tokens"] == 5
    assert "pseudo_perplexity_cold_windows" in summary["bilstm"]
    assert all(len(numbers) < 10 for numbers in summary.values())


def test_a_report_without_any_diagnosis_names_each_gap(root: Path) -> None:
    for part in ("perplexity", "diagnostics", "samples"):
        shutil.rmtree(root / "data/metrics" / part)
    build(root)
    page = (root / "data/report/index.html").read_text(encoding="utf-8")
    assert "data/metrics/diagnostics/rnn.json is missing" in page


def test_the_page_says_what_intervals_are_over_and_which_weights_are_before_training(root: Path) -> None:
    parts = sections(root)
    for heading in ("Comparison", "Perplexity as papers report it", "Where the loss is"):
        assert "bootstrap intervals over windows" in parts[heading].html
        assert "sections" not in parts[heading].html
    flow = unescape(parts["Gradient flow"].html)
    assert "“Before training” means fresh weights, also where train.init_from gave the run others." in flow
    short = "hidden size 128 or, with heads, the nearest that they divide"
    assert short in parts["Overfitting and dropout"].html
