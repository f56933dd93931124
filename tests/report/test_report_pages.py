"""The pages: what they say, what they leave out, and that no text from outside can break them."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from fabricated_results import write_results
from hypothesis import given
from hypothesis import strategies as st

from recurlm import config
from recurlm.errors import InputError
from recurlm.report import charts, page, tables
from recurlm.report.build import build
from recurlm.report.drawing import Palette, svg
from recurlm.report.metrics import COLUMNS, Metrics, read_metrics
from recurlm.report.results import load_results
from recurlm.report.samples import Sample
from recurlm.report.tables import Cell, Table, markdown, show
from recurlm.tracking.sync import Plan

ANY_TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00\r"))


class Reader(HTMLParser):
    """What a browser makes of a page: its text, its tags, and what it would fetch."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.text = ""
        self.tags: list[str] = []
        self.fetched: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [value or "" for name, value in attributes if name in {"src", "href", "srcset", "xlink:href"}]

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_results(tmp_path)
    return tmp_path


def pages(root: Path) -> tuple[str, str]:
    build(root)
    return tuple((root / "data/report" / name).read_text(encoding="utf-8") for name in ("report.md", "index.html"))


def rows(root: Path, title: str) -> dict[str, dict[str, str]]:
    """A table of the Markdown page: variant → head → text."""
    section = pages(root)[0].split(f"## {title}\n", 1)[1].split("\n## ", 1)[0]
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("|")]
    return {line[0]: dict(zip(lines[0], line, strict=True)) for line in lines[2:]}


def test_both_pages_compare_all_variants(root: Path) -> None:
    compared = rows(root, "Comparison")
    assert list(compared) == ["rnn", "lstm", "bilstm"], "in the order of params.yaml"
    assert compared["rnn"] == {
        "variant": "rnn",
        "perplexity per token": "54.60 (53.60 to 55.60)",
        "perplexity per word": "403.4",
        "bits per byte": "2.0000",
        "pseudo-perplexity per token": "—",
        "pseudo-perplexity per word": "—",
        "pseudo-bits per byte": "—",
        "words out of vocabulary": "0.00 %",
        "parameters": "1,234",
        "layers × hidden": "2 × 8",
        "gates": "0",
        "bundle": "12.3 MB",
        "ONNX = PyTorch": "verified",
    }
    assert compared["lstm"]["perplexity per token"] == "**42.52**", "its interval is that of another score"
    text = Reader(pages(root)[1]).text
    shown = [part for row in compared.values() for cell in row.values() for part in re.split(r"\*\*| \(|\)", cell)]
    assert all(part in text for part in shown)


def test_a_cloze_model_never_competes_with_left_to_right_models(root: Path) -> None:
    compared = rows(root, "Comparison")
    assert compared["bilstm"]["pseudo-bits per byte"] == "1.7500"
    assert compared["bilstm"]["bits per byte"] == "—"
    assert compared["lstm"]["bits per byte"] == "**1.8750**"
    report = root / "data/report"
    assert "bilstm" not in (report / "curves.svg").read_text(encoding="utf-8")
    assert "bilstm" in (report / "curves-cloze.svg").read_text(encoding="utf-8")


def test_the_table_has_a_row_for_each_split_protocol_and_metric(root: Path) -> None:
    metrics = read_metrics(load_results(root, config.load(root / "params.yaml")))
    keys = metrics.table.drop(columns=["value", "low", "high", "objective"])
    assert not keys.duplicated().any()
    assert metrics.value("lstm", "bits_per_byte", "evaluate", "test") == 1.875
    assert metrics.value("bilstm", "pseudo_perplexity_per_token", "cold_windows") == pytest.approx(70.105, abs=1e-3)
    assert metrics.value("bilstm", "perplexity_per_token", "cold_windows") is None
    assert metrics.interval("rnn", "perplexity_per_token", "static") == pytest.approx((53.598, 55.598), abs=1e-3)
    assert metrics.rows("log", "nats_per_token", variant="lstm", split="train")["value"].tolist() == pytest.approx(
        [6 - step / 10 for step in range(1, 16)]
    )
    written = pages(root) and pd.read_csv(root / "data/report/metrics.csv")
    pd.testing.assert_frame_equal(written.fillna({"split": ""}), metrics.table.reset_index(drop=True))


def test_curves_have_the_points_of_the_log_and_of_a_model_without_one_the_evaluations(root: Path) -> None:
    (root / "data/models/rnn/log.csv").unlink()
    results = load_results(root, config.load(root / "params.yaml"))
    curve = next(charts.learning_curves(read_metrics(results), page.palette_of(results)))
    lines, points = (curve.spec["datasets"][layer["data"]["name"]] for layer in curve.spec["layer"])
    drawn = {name: [row["split"] for row in lines if row["variant"] == name] for name in ("rnn", "lstm")}
    assert {name: (rows.count("train"), rows.count("validation")) for name, rows in drawn.items()} == {
        "rnn": (3, 3),
        "lstm": (15, 3),
    }
    assert [row["value"] for row in points if row["variant"] == "lstm"] == [4.75, 4.25, 3.75]


def test_a_variant_with_nothing_yet_is_named_and_breaks_nothing(root: Path) -> None:
    for path in ("models/lstm", "onnx/lstm"):
        shutil.rmtree(root / "data" / path)
    for path in ("metrics/lstm.json", "metrics/verification/lstm.json"):
        (root / "data" / path).unlink()
    assert rows(root, "Comparison")["lstm"]["bits per byte"] == "—"
    for text in pages(root):
        assert "lstm: not trained yet, not evaluated yet, no bundle yet, not verified yet" in text


def test_a_report_of_nothing_at_all_can_be_made(root: Path) -> None:
    shutil.rmtree(root / "data")
    (root / "dvc.lock").unlink()
    for text in pages(root):
        assert "No variant has been trained yet." in text


def test_a_failed_verification_is_shown(root: Path) -> None:
    path = root / "data/metrics/verification/rnn.json"
    path.write_text(json.dumps({"fp32": json.loads(path.read_bytes())["fp32"] | {"verified": False}}), encoding="utf-8")
    assert rows(root, "Comparison")["rnn"]["ONNX = PyTorch"] == "check failed"
    assert "rnn" not in Plan.of(root).as_json()["runs"]


def test_timings_of_another_model_are_left_out(root: Path) -> None:
    assert rows(root, "Measurements of this machine")["rnn"]["training, tokens/s"] == "12,346"
    (root / "data/models/rnn/model.safetensors").write_bytes(b"trained anew")
    (root / "data/timings/generate-rnn.json").unlink()
    timings = rows(root, "Measurements of this machine")
    assert timings["rnn"]["training, tokens/s"] == timings["rnn"]["generation in fp32, tokens/s"] == "—"
    assert timings["lstm"]["training, tokens/s"] == "12,347"


def test_the_settings_are_those_that_the_model_was_trained_with(root: Path) -> None:
    text = (root / "params.yaml").read_text(encoding="utf-8")
    (root / "params.yaml").write_text(text.replace("hidden_size: 8", "hidden_size: 9").replace("seed: 7", "seed: 8"))
    result = load_results(root, config.load(root / "params.yaml")).variants[0]
    assert result.model_config["hidden_size"] == 8
    assert result.settings["train"]["seed"] == 7
    assert result.settings["fetch"] == {
        "source": "packaged",
        "packaged": config.load(root / "params.yaml").fetch.packaged.model_dump(),
    }


def test_the_same_results_give_the_same_bytes(root: Path) -> None:
    def written() -> dict[str, bytes]:
        build(root)
        return {str(path): path.read_bytes() for path in (root / "data/report").rglob("*") if path.is_file()}

    assert written() == written()


def test_the_html_page_asks_nothing_of_the_network(root: Path) -> None:
    page = pages(root)[1]
    assert all(reference.startswith(("data:", "#")) for reference in Reader(page).fetched)
    assert not re.search(r"url\(|@import", re.sub(r"<script.*?</script>", "", page, flags=re.DOTALL))
    assert "default-src 'none'" in page, "the page's own policy stops what a script would fetch"


def test_all_curves_are_one_csv_file_for_dvc(root: Path) -> None:
    build(root)
    lines = (root / "data/report/curves.csv").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "variant,objective,step,tokens,train_loss,validation_loss"
    assert lines[1] == "rnn,causal,5,5000,5.5,5.25"
    assert len(lines) == 1 + 3 * 3


def test_a_damaged_bundle_costs_only_its_own_sample(root: Path) -> None:
    (root / "data/onnx/rnn/fp32/generator.onnx").write_bytes(b"corrupted")
    markdown_page = pages(root)[0]
    assert re.search(r"### rnn\n\nNo sample: .+corrupted", markdown_page.replace("\\", ""))
    assert not (root / "data/report/samples/rnn.txt").exists()


@pytest.mark.parametrize(
    ("file", "content", "complaint"),
    [
        ("data/metrics/rnn.json", "{", "not a JSON file"),
        ("data/metrics/rnn.json", "[]", "holds no JSON object"),
        ("data/models/rnn/curve.csv", "step,tokens\n1,many\n", "not a learning curve"),
        ("dvc.lock", "<<<<<<< HEAD\n: [", "not YAML"),
    ],
)
def test_an_unreadable_file_is_named(root: Path, file: str, content: str, complaint: str) -> None:
    (root / file).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=rf"{file}: {complaint}"):
        build(root)


@given(ANY_TEXT, ANY_TEXT)
def test_any_text_is_shown_as_it_is_in_html(prompt: str, text: str) -> None:
    macros = page.environment(html=True).get_template("html.j2").make_module({"none_text": "—", "cloze": ()})

    def shown(prompt: str, text: str) -> Reader:
        table = Table(
            ("variant", text), ((Cell(prompt), Cell(text, best=True, note=f"({text})")),), caption="a caption"
        )
        return Reader(
            "".join(map(str, (macros.note(text), macros.table(table), macros.sample(Sample(text, prompt, text)))))
        )

    assert shown(prompt, text).tags == shown("", "").tags
    assert prompt + text in shown(prompt, text).text


@given(ANY_TEXT)
def test_no_text_can_end_its_fence_in_markdown(text: str) -> None:
    macros = page.environment(html=False).get_template("markdown.j2").module
    sample = str(macros.sample(Sample("rnn", "", text)))
    fence = re.search(r"^(`{3,})text$", sample, re.MULTILINE)
    assert fence
    inside = sample[fence.end() + 1 :]
    assert inside.startswith(text)
    assert fence[1] not in text


@given(ANY_TEXT)
def test_no_text_can_add_a_column_or_a_row_in_markdown(text: str) -> None:
    table = markdown(Table(("variant", text), ((Cell("rnn"), Cell(text)),)))
    assert len(table.split("\n")) == 3
    assert all(len(re.findall(r"(?<!\\)(?:\\\\)*\|", line)) == 3 for line in table.split("\n"))


def test_nothing_is_pointed_out_where_all_are_equal(root: Path) -> None:
    results = load_results(root, config.load(root / "params.yaml"))
    rows = tables.comparison(results, read_metrics(results)).rows
    same = [column for column in zip(*rows, strict=True) if len({cell.text for cell in column}) == 1]
    assert same
    assert not any(cell.best for column in same for cell in column)


def test_a_perplexity_that_means_nothing_is_not_shown_as_a_number() -> None:
    assert show(38.25, "word") == "38.2"
    assert show(152_074_641.0, "word") == "over 100,000"


def test_the_axis_of_gates_is_as_wide_as_the_data() -> None:
    head = {"variant": "gru", "objective": "causal", "protocol": "gate layer0 update"}
    rows = [head | {"metric": f"fraction_{side}", "value": value} for side, value in (("closed", 0.2), ("open", 0.1))]
    (chart,) = charts.gates(Metrics(pd.DataFrame(rows, columns=COLUMNS), {}), Palette(("gru",)))
    assert chart.spec["encoding"]["x"]["scale"]["domain"] == [-0.2, 0.2]


def test_the_labels_of_precisions_have_sides_of_their_own() -> None:
    row = {"variant": "gru", "objective": "causal", "bits": 2.0, "speed": 1000.0}
    rows = [row | {"precision": name, "order": place} for place, name in enumerate(charts.PRECISIONS)]
    (chart,) = charts.quality_against_speed(pd.DataFrame(rows), Palette(("gru",)))
    labels = [layer["mark"] for layer in chart.spec["layer"] if layer["mark"]["type"] == "text"]
    assert len({(mark["align"], mark.get("dy", 0)) for mark in labels}) == len(charts.PRECISIONS)
    svg(chart)  # Vega takes it


def test_no_two_of_many_variants_have_one_colour_and_one_shape() -> None:
    palette = Palette(tuple(f"v{number}" for number in range(27)))
    assert len({(palette.colours[name], palette.shapes[name]) for name in palette.names}) == 27
    assert len({palette.shapes[name] for name in palette.names[:8]}) == 8
