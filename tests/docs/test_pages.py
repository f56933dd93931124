"""The pages of docs/ are true: tables are those of their JSON, and what README.md and they name exists."""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from pages import PAGES, RESULTS, Page, assert_shape, identical_tokens, interval, measured, result, scores, verified
from tiny_project import CHECKOUT, Project

from recurlm.cli.commands import parser
from recurlm.compare import page as comparison
from recurlm.report.tables import markdown
from recurlm.storage import read_json

pytestmark = pytest.mark.xdist_group("project")

PARAMS = yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))
VARIANTS = ["rnn", "gru", "lstm", "bilstm"]
CAUSAL = ["rnn", "gru", "lstm"]
BENCHMARKS, DIAGNOSTICS, RESULTS_PAGE = Page("docs/benchmarks.md"), Page("docs/diagnostics.md"), Page("docs/results.md")
TRANSCRIBED = {name: result(name) for name in ("throughput", "serving", "other-runs")}
REPRO = result("repro")
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
# Sections whose parameters are not looked up: a block of `variants` may leave out what `model` says.
UNSETTLED = {"variants", "model"}  # examples name variants of their own, and `model` is a Python module too


def commands(page: Page, inline: bool = True) -> Iterator[list[str]]:
    """The words of every command in the page's shell blocks, and in its `inline code`, without comments."""
    lines = [line for block in page.blocks("sh") for line in block.replace("\\\n", " ").splitlines()]
    for line in lines + (re.findall(r"`([^`\n]+)`", page.prose) if inline else []):
        for part in re.split(r" && | \| ", line):
            if re.match(r"(make|recurlm|python|dvc) ", part):
                yield shlex.split(part.replace("$'", "'"), comments=True)


# What the pages name


@EVERY_PAGE
def test_its_make_targets_exist(page: Page) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (CHECKOUT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for command in commands(page):
        if command[0] == "make":
            assert set(command[1:2]) <= targets, command


@EVERY_PAGE
def test_its_recurlm_commands_are_of_the_command_line(page: Page) -> None:
    for command in commands(page, inline=False):
        if command[0] == "recurlm":
            assert callable(parser().parse_args(command[1:]).command)


@EVERY_PAGE
def test_the_options_that_it_names_are_of_the_command_line(page: Page) -> None:
    top = parser()
    (commands,) = (action for action in top._actions if isinstance(action, argparse._SubParsersAction))
    options = {option for each in [top, *commands.choices.values()] for option in each._option_string_actions}
    programs = "".join(path.read_text(encoding="utf-8") for path in (CHECKOUT / "benchmarks").glob("*.py"))
    for option in re.findall(r"`(?:recurlm \w+ )?(--[a-z-]+)`", page.prose):
        assert option in options or f'"{option}"' in programs, option


@EVERY_PAGE
def test_its_programs_exist_and_have_the_options(page: Page) -> None:
    for command in commands(page):
        if command[0] != "python" or command[1] == "-":
            continue
        if command[1] == "-m":
            specification = importlib.util.find_spec(command[2])
            assert specification, command
            continue
        program = CHECKOUT / command[1]
        assert program.is_file(), command
        text = program.read_text(encoding="utf-8")
        if "add_json_option(parser)" in text:
            text += (CHECKOUT / "benchmarks/common.py").read_text(encoding="utf-8")
        for option in command[2:]:
            assert not option.startswith("--") or f'"{option}"' in text, command


@EVERY_PAGE
def test_its_parameters_are_those_of_params_yaml(page: Page) -> None:
    changed = re.findall(r"-S '?([\w.]+)=", page.text)
    named = re.findall(rf"`((?:{'|'.join([*PARAMS, *UNSETTLED])})(?:\.\w+)+)(?:: [^`]+)?`", page.prose)
    for name in changed + [name for name in named if not re.search(r"\.(py|yaml|json|txt|bin)$", name)]:
        section, *keys = name.split(".")
        at: Any = PARAMS
        for key in [] if section in UNSETTLED else [section, *keys]:
            assert key in at, name
            at = at[key]


@EVERY_PAGE
def test_its_yaml_is_a_part_of_params_yaml(page: Page) -> None:
    def check(part: dict[str, Any], whole: dict[str, Any]) -> None:
        for key, value in part.items():
            assert key in whole, key
            if isinstance(value, dict):
                check(value, whole[key])

    for block in page.blocks("yaml"):
        check({key: value for key, value in yaml.safe_load(block).items() if key not in UNSETTLED}, PARAMS)


@EVERY_PAGE
def test_its_stages_are_those_of_dvc_yaml(page: Page) -> None:
    stages = yaml.safe_load((CHECKOUT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    for stage, variant in re.findall(r"dvc [^\n]*?\b(\w+)@(\w+)", page.text):
        assert "foreach" in stages[stage], stage
        assert variant in PARAMS["variants"], variant


@EVERY_PAGE
def test_its_links_lead_somewhere(page: Page) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.prose):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        place = ((CHECKOUT / page.name).parent / name).resolve() if name else CHECKOUT / page.name
        assert place.exists(), target
        assert not anchor or anchor in Page(str(place.relative_to(CHECKOUT))).anchors, target


@EVERY_PAGE
def test_the_files_that_it_names_exist(page: Page) -> None:
    named = re.findall(
        r"`((?:benchmarks|docs|pipelines|playground|src|tests|data/metrics)(?:/[\w<>.-]+)*)`", page.prose
    )
    built = ("playground/dist", "src/recurlm/variants/mgu.py")  # by `make playground`; by the reader
    for name in named:
        assert name in built or (CHECKOUT / name.replace("<v>", "lstm")).exists(), name


# The lesson's blocks are parts of one program: test_lesson.py runs it.
WITH_PYTHON = [page for page in PAGES[1:] if page.blocks("python") and page.name != "docs/lesson.md"]


@pytest.mark.parametrize("page", WITH_PYTHON, ids=lambda page: page.name)
def test_its_python_runs(reproduced: Project, page: Page) -> None:
    for block in page.blocks("python"):
        ran = reproduced.run(sys.executable, "-c", block.replace("data/onnx/lstm", "data/onnx/gru"))
        assert ran.returncode == 0, ran.stderr
        assert len(ran.stdout) > 20


# Tables


@pytest.mark.parametrize("variant", VARIANTS)
def test_results_are_those_of_data_metrics(variant: str) -> None:
    cells = RESULTS_PAGE.table("# Results").by_first_cell[variant]
    speeds = REPRO["variants"][variant]
    assert_shape(variant, cells)
    assert list(cells.values())[2:6] == scores(variant)
    assert cells["training, tokens/s"] == f"{speeds['training_tokens_per_second']:,}"
    assert cells["ONNX in fp32, tokens/s"] == f"{speeds['onnx_fp32_tokens_per_second']:,}"


@pytest.mark.parametrize("variant", VARIANTS)
def test_intervals_are_those_of_data_metrics(variant: str) -> None:
    cells = RESULTS_PAGE.table("## Intervals").by_first_cell[variant]
    assert cells == {f"over {over}": interval(variant, over) for over in ("windows", "documents")}


@pytest.mark.parametrize("variant", VARIANTS)
def test_precisions_are_those_that_were_verified(variant: str) -> None:
    cells = RESULTS_PAGE.table("## int8 and int4").by_first_cell[variant]
    sizes = REPRO["variants"][variant]["generating_file_bytes"]
    found = verified(variant)
    assert {name: cells[name] for name in sizes} == {name: f"{size / 1e6:.1f} MB" for name, size in sizes.items()}
    for name in ("int8", "int4"):
        increase = f"{100 * found[name]['perplexity_increase']:+.2f} %".replace("-", "−")
        assert cells[f"perplexity, {name}"] == increase
        assert cells[f"tokens, {name}"] == identical_tokens(found[name])
    compared = 25_045 if variant == "bilstm" else 25_000
    for name, most_ties in (("fp32", 5), ("int8", 0), ("int4", 0)):
        ties = found[name]["near_ties"]
        assert ties <= most_ties
        assert identical_tokens(found[name]) == f"{compared - ties:,}"


@pytest.mark.parametrize("variant", CAUSAL)
def test_diagnostics_are_those_of_data_metrics(variant: str) -> None:
    cells = {row: columns[variant] for row, columns in DIAGNOSTICS.table("## Measurements").by_first_cell.items()}
    perplexity, diagnostics = measured(f"perplexity/{variant}"), measured(f"diagnostics/{variant}")
    dynamic, gradients = perplexity["dynamic_evaluation"], diagnostics["gradients"]
    window = perplexity["cold_windows"]["window_tokens"]

    def told(scores: Any) -> str:
        return f"{scores['perplexity_per_token']:.1f}"

    assert cells == {
        "static, streamed": told(perplexity["static"]),
        f"static, windows of {window} from a zero state": told(perplexity["cold_windows"]),
        "with a neural cache": told(perplexity["neural_cache"]),
        f"with dynamic evaluation, on {dynamic['tokens']:,} tokens (static on the same)": (
            f"{told(dynamic)} ({told(dynamic['static_on_the_same_tokens'])})"
        ),
        "effective context, tokens": str(diagnostics["context"]["effective_context_tokens"]),
        "tokens back at which the state's gradient is below 1 %, before → after training": " → ".join(
            str(gradients[f"{when}_training"]["vanished_at"]) for when in ("before", "after")
        ),
        "gates": str(diagnostics["gates"]["gates_in_a_cell"]),
    }
    assert gradients["vanished_below"] == 0.01


def assert_settings(shape: str) -> None:
    """Check that time_to_quality.py has settings of these layers × hidden."""
    layers, hidden = shape.split(" × ")
    program = (CHECKOUT / "benchmarks/time_to_quality.py").read_text(encoding="utf-8")
    assert int(layers) == PARAMS["model"]["layers"]  # which the program does not replace
    assert f'"hidden_size": {hidden}' in program


def effort(run: dict[str, Any]) -> list[str]:
    """Seeds, steps, epochs and operations of a run of time_to_quality.py, as its pages tell them."""
    seeds = run.get("seeds", {})
    steps, epochs, operations = (
        seeds[name]["mean"] if seeds else run.get(name) for name in ("steps", "epochs", "operations")
    )
    operations = f"{operations / 1e12:,.0f}" if operations else "—"
    return [str(len(seeds["steps"]["values"])) if seeds else "1", f"{steps:,.0f}", f"{epochs:.1f}", operations]


def figure(run: dict[str, Any], name: str, digits: int) -> str:
    """One value, or the mean and spread of several."""
    if "seeds" not in run:
        return f"{run[name]:.{digits}f}"
    return "{mean:.{digits}f} ± {spread:.{digits}f}".format(**run["seeds"][name], digits=digits)


def test_losses_after_a_minute_are_those_of_their_json() -> None:
    table = BENCHMARKS.table("## Loss after a minute")
    runs = {(seconds, "1"): f"characters-{seconds}" for seconds in ("60", "600", "3600")}
    runs |= {(seconds, models): f"characters-{seconds}-mixture" for seconds, models in (("600", "2"), ("3600", "3"))}
    assert {(seconds, models) for seconds, models, *_ in table.rows} == set(runs)
    for seconds, models, shape, *cells in table.rows:
        assert_settings(shape)
        run = result(runs[seconds, models])
        assert str(run.get("models", 1)) == models
        losses = [figure(run, name, 4) for name in ("loss_cold_256", "loss_streamed")]
        assert run["budget"] == float(seconds)
        assert cells == [f"{run['parameters']:,}", *effort(run), *losses]
    alone = result("characters-3600-mixture")["each"]["loss_cold_256"]
    assert f"alone, the three of the hour's first seed have {min(alone):.3f} to {max(alone):.3f}" in BENCHMARKS.text


def test_perplexities_of_words_are_those_of_their_json() -> None:
    for seconds, shape, *cells in BENCHMARKS.table("## Words").rows:
        assert_settings(shape)
        run = result(f"words-{seconds}")
        assert cells == [f"{run['parameters']:,}", *effort(run), figure(run, "perplexity", 1)]


def test_other_runs_are_those_of_their_json() -> None:
    rows = BENCHMARKS.table("Other runs").rows + BENCHMARKS.table("The baseline is").rows
    runs = {run["name"]: run for run in TRANSCRIBED["other-runs"]["runs"]}
    assert {row[0] for row in rows} == set(runs)
    for name, figure, command in rows:
        run = runs[name]
        assert command == f"`{run['command']}`"
        assert figure == (f"{run['loss_cold_256']:.4f}" if "loss_cold_256" in run else f"{run['perplexity']:.1f}")
    best = runs["plain words"]
    assert f"{best['perplexity']} is its best, after {best['seconds']} seconds" in BENCHMARKS.text


def test_throughput_is_that_of_its_json() -> None:
    throughput = TRANSCRIBED["throughput"]
    now, before = (throughput[f"share_of_bf16_matmul{when}"] for when in ("", "_half_an_hour_before"))
    assert BENCHMARKS.table("## Training").by_first_cell == {
        "plain": {variant: f"{now[variant]['plain bf16']:.0%}".replace("%", " %") for variant in now},
        "recurlm": {variant: f"{now[variant]['recurlm']:.0%}".replace("%", " %") for variant in now},
        "plain, half an hour before": {
            variant: f"{before[variant]['plain bf16']:.0%}".replace("%", " %") for variant in now
        },
    }


def test_speeds_of_generation_are_those_of_their_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    generation = importlib.import_module("generation")
    assert generation.marked(result("generation")) in BENCHMARKS.text


# Heading, JSON, and a row's figures with their formats.
EXACT = {
    "nats": "{:.5f}",
    "nats_with_the_true_functions": "{:.5f}",
    "perplexity_increase_percent": "{:+.4f} %",
    "standard_error_percent": "{:.4f} %",
}
BY_VARIANT = [
    ("## Exact functions", "exact_functions", EXACT),
    ("### Exact functions in residual blocks", "exact_functions_zoo", EXACT),
    (
        "## Resets",
        "resets",
        {"tokens_per_second_with_resets": "{:,.0f}", "tokens_per_second_without": "{:,.0f}", "ratio": "{:.3f}"},
    ),
]


@pytest.mark.parametrize(("heading", "name", "formats"), BY_VARIANT, ids=[name for _, name, _ in BY_VARIANT])
def test_a_table_of_variants_is_that_of_its_json(heading: str, name: str, formats: dict[str, str]) -> None:
    rows = result(name)["variants"]
    assert BENCHMARKS.table(heading).rows == [
        [variant, *(form.format(row[key]) for key, form in formats.items())] for variant, row in rows.items()
    ]


def test_where_a_bundle_runs_is_that_of_its_json(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    runtimes = importlib.import_module("runtimes")
    table = runtimes.table(result("runtimes")["runtimes"])
    assert f"<!-- runtimes.py -->\n{table}\n<!-- /runtimes.py -->" in Page("docs/deploying.md").text


def test_how_many_faults_were_caught_is_what_their_json_says() -> None:
    faults = result("faults")
    assert f"it caught {faults['caught']:,} of {faults['planted']:,}:" in Page("docs/reproducibility.md").text
    assert len(faults["missed"]) == faults["planted"] - faults["caught"]


def test_what_is_said_of_the_comparison_is_in_its_json() -> None:
    found = result("compare-plays")["variants"]
    better = [name for name, part in found.items() if (part["against_reference"] or {}).get("verdict") == "better"]
    assert better == ["rglru"]
    unclear = [name for name, part in found.items() if (part["against_reference"] or {}).get("verdict") == "not shown"]
    assert sorted(unclear) == ["hgrn2", "mingru", "slstm"]
    assert max(abs(found[name]["against_reference"]["nats_per_token"]) for name in unclear) < 0.03
    share = found["rglru"]["perplexity_per_token"] / found["lstm"]["perplexity_per_token"]
    text = " ".join(Page("docs/compare.md").text.split())
    assert f"by {1 - share:.0%} of its perplexity".replace("%", " %") in text
    lead = found["lstm"]["validation_nats_at_equal_seconds"] - found["mingru"]["validation_nats_at_equal_seconds"]
    assert f"By equal seconds minGRU leads the LSTM by {lead:.2f} nats" in text
    matrices = [found[name]["state_bytes"] for name in ("hgrn2", "mamba2", "kda", "gated_deltanet")]
    assert matrices == [14 * found["lstm"]["state_bytes"]] * 4


def test_scores_of_the_memory_tasks_are_those_of_their_json() -> None:
    table, cells = Page("docs/compare.md").table("at the longest trained length"), result("memory_tasks")["cells"]
    assert list(table.by_first_cell) == list(cells)
    for cell, shown in table.by_first_cell.items():
        assert list(shown) == list(cells[cell])
        for task, found in shown.items():
            means = [fmean(at["by_seed"]) for at in cells[cell][task]["scores"]]
            assert [float(score.replace("−", "-")) for score in found.split(", ")] == pytest.approx(means, abs=0.0051)


@pytest.mark.parametrize("path", sorted(RESULTS.glob("compare-*.json")), ids=lambda path: path.stem)
def test_the_comparison_s_table_is_that_of_its_json(path: Path) -> None:
    results = read_json(path)
    table = f"{comparison.lead(results)}\n\n{markdown(comparison.table(results))}\n"
    assert f"<!-- table: {path.name} -->\n{table}<!-- /table -->" in Page("docs/compare.md").text


def test_load_is_that_of_its_json() -> None:
    serving = TRANSCRIBED["serving"]
    assert Page("docs/serving.md").table("## Load").rows == [
        [
            row["bundle"].replace("/", " ") + ("" if row["batched"] else ", alone"),
            f"{row['clients']}",
            f"{row['requests_per_second']:.1f}",
            f"{row['tokens_per_second']:,}",
            f"{row['p50_ms']:,}",
            f"{row['p99_ms']:,}",
            f"{row['cpu_ms_per_request']:.1f}",
        ]
        for row in serving["measurements"]
    ]


def test_times_of_make_repro_are_those_of_their_json() -> None:
    for clone in [*REPRO["fresh_clones"], REPRO["evaluate_and_diagnose"]]:
        assert "{}:{:02}".format(*divmod(clone["seconds"], 60)) in Page("docs/pipeline.md").text


def test_limits_of_the_verification_are_those_of_params_yaml() -> None:
    text = " ".join(Page("docs/reproducibility.md").text.split())
    limits = PARAMS["verify"]["max_perplexity_increase"]
    assert f"more than {100 * limits['int8']:g} % (int8) or {100 * limits['int4']:g} % (int4)" in text
    assert f"in groups of {PARAMS['export']['group_size']} (`export.group_size`)" in text
    assert "20 × 250 greedy and 4 × 20 × 250 sampled tokens" in text
    assert PARAMS["verify"]["num_tokens"] == 20 * 250
    assert len(PARAMS["verify"]["sampling"]) == 4


# Where figures come from


@pytest.mark.parametrize("path", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_every_json_of_a_benchmark_is_linked_and_its_command_stands_on_the_page(path: Any) -> None:
    pages = [page for page in PAGES if f"](../benchmarks/results/{path.name})" in page.text]
    assert pages
    command = result(path.stem).get("command", "python benchmarks/time_to_quality.py")
    assert path.stem == "other-runs" or any(command in page.text for page in pages)


@pytest.mark.parametrize("name", TRANSCRIBED)
def test_a_transcribed_json_says_so_and_so_does_its_page(name: str) -> None:
    assert re.match(r"published (table|text), run on .+, transcribed from ", TRANSCRIBED[name]["source"])
    for page in PAGES:
        if f"](../benchmarks/results/{name}.json)" in page.text:
            assert "transcribed from" in page.text, page.name
