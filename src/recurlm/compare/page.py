"""The comparison as a table, three pictures and a page."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import altair as alt

from recurlm.report import html, markdown
from recurlm.report.charts.base import Chart, base, colour, finish, shape
from recurlm.report.pictures import png
from recurlm.report.section import Section
from recurlm.report.tables import Column, Table, count, decimals, rows_of
from recurlm.storage import whole_file

Results = dict[str, Any]


def table(results: Results) -> Table:
    """A row a variant, the lowest loss first."""
    parts = sorted(results["variants"].items(), key=lambda item: item[1]["nats_per_token"])

    def value(*keys: str) -> Callable[[Any], Any]:
        def read(part: Any) -> Any:
            for key in keys:
                part = None if part is None else part.get(key)
            return part

        return read

    def difference(part: Any) -> str | None:
        found = part["against_reference"]
        if found is None:
            return None
        ends = "" if found["interval"] is None else " ({:+.3f} to {:+.3f})".format(*found["interval"])
        return f"{found['nats_per_token']:+.3f}{ends}: {found['verdict']}"

    seconds = f"validation nats after {results['equal_seconds']:,.0f} s"
    columns = (
        Column("parameters", value("parameters"), count),
        Column("trials (diverged)", lambda part: f"{part['trials']} ({part['diverged_trials']})", str),
        Column("test nats per token", value("nats_per_token"), decimals(3)),
        Column("spread of seeds", value("nats_spread"), decimals(3)),
        Column("perplexity", value("perplexity_per_token"), decimals(1)),
        Column("interval", lambda part: _ends(part["perplexity_interval"]), str),
        Column("bits per byte", value("bits_per_byte"), decimals(3)),
        Column(f"nats against {results['reference'] or 'a reference'}", difference, str),
        Column(seconds, value("validation_nats_at_equal_seconds"), decimals(3)),
        Column("training tokens/s", value("speed", "training_tokens_per_second"), decimals(0)),
        Column("generation fp32, µs", value("speed", "generation_us_fp32"), decimals(0)),
        Column("int8, µs", value("speed", "generation_us_int8"), decimals(0)),
        Column("state, bytes", value("state_bytes"), count),
    )
    return rows_of("variant", parts, columns)


def _ends(interval: list[float] | None) -> str | None:
    return None if interval is None else "{:.1f} to {:.1f}".format(*interval)


def pictures(results: Results) -> dict[str, tuple[Chart, str]]:
    """File name → the chart and its title."""
    names, seeds = list(results["variants"]), len(results["seeds"])
    return {
        "quality.png": (
            _quality(results, names),
            f"Test perplexity: mean of {seeds} seeds and its interval; ticks: seeds",
        ),
        "seconds.png": (_curves(results, names), f"Validation loss by seconds of training, mean of {seeds} seeds"),
        "state.png": (_state(results, names), "Test loss against generation time; bytes: of the state"),
    }


def _quality(results: Results, names: list[str]) -> Chart:
    rows, ticks = [], []
    for name, part in results["variants"].items():
        low, high = part["perplexity_interval"] or [None, None]
        rows.append({"variant": name, "perplexity": part["perplexity_per_token"], "low": low, "high": high})
        ticks += [{"variant": name, "perplexity": math.exp(nats)} for nats in part["nats_by_seed"]]
    order = sorted(names, key=lambda name: results["variants"][name]["nats_per_token"])
    y = alt.Y("variant:N", title=None, sort=order)
    x = alt.X("low:Q", title="perplexity per token on test (less is better)", scale=alt.Scale(zero=False))
    chart = base(rows).encode(y=y, color=colour(names))
    layers = [
        chart.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q"),
        chart.mark_point(filled=True, size=70, opacity=1).encode(x="perplexity:Q", shape=shape(names)),
        base(ticks).mark_tick(thickness=1, size=14).encode(y=y, x="perplexity:Q", color=colour(names)),
    ]
    return Chart("Test perplexity", finish(alt.LayerChart(layer=layers), 26 * len(names) + 40), tuple(names))


def _curves(results: Results, names: list[str]) -> Chart:
    rows = []
    for name, part in results["variants"].items():
        rate = part["speed"]["training_tokens_per_second"]
        for points in zip(*part["curves"], strict=True):
            mean = statistics.fmean(loss for _, loss in points)
            rows.append({"variant": name, "seconds": points[0][0] / rate, "loss": mean})
    chart = base(rows).encode(
        x=alt.X("seconds:Q", title="seconds of training on this machine"),
        y=alt.Y("loss:Q", title="validation nats per token", scale=alt.Scale(zero=False)),
        color=colour(names),
    )
    layers = [chart.mark_line(), chart.mark_point(filled=True, size=50, opacity=1).encode(shape=shape(names))]
    return Chart("Validation loss by seconds of training", finish(alt.LayerChart(layer=layers)), tuple(names))


def _state(results: Results, names: list[str]) -> Chart:
    rows = [
        {
            "variant": name,
            "precision": precision,
            "µs": part["speed"][f"generation_us_{precision}"],
            "nats": part["nats_per_token"],
            "label": f"fp32, {part['state_bytes']:,} bytes" if precision == "fp32" else "int8",
        }
        for name, part in results["variants"].items()
        for precision in ("fp32", "int8")
    ]
    chart = base(rows).encode(
        x=alt.X("µs:Q", title="onnxruntime, µs a token on one thread"),
        y=alt.Y("nats:Q", title="test nats per token", scale=alt.Scale(zero=False, padding=15)),
        color=colour(names),
    )
    layers = [
        chart.mark_line(strokeWidth=1, opacity=0.5),
        chart.mark_point(filled=True, size=80, opacity=1).encode(shape=shape(names)),
        chart.mark_text(dy=-11, fontSize=10).encode(text="label:N"),
    ]
    return Chart("Test loss against generation time", finish(alt.LayerChart(layer=layers)), tuple(names))


def lead(results: Results) -> str:
    """What was done, in one paragraph."""
    trials = next(iter(results["variants"].values()))["trials"]
    interval = f"{results['confidence']:.0%} bootstrap intervals over {results['units']} {results['unit']}s"
    return (
        f"Each variant was tuned by {trials} trials of {results['trial_tokens']:,} tokens, trained on "
        f"{results['training_tokens']:,} tokens from {len(results['seeds'])} seed(s), and scored once on "
        f"{results['test_tokens']:,} test tokens of {results['corpus']['name']} ({results['tokenizer']['kind']}, "
        f"{results['tokenizer']['vocab_size']:,} tokens); {interval}. A variant is called better or worse than "
        f"{results['reference'] or 'the reference'} only where the interval of the difference leaves 0 out and no seed "
        "of the one lies among the other's."
    )


def write(results: Results, folder: Path, page: Path) -> None:
    """Write table.md and the pictures into `folder`, and the page."""
    shown = pictures(results)
    section = Section(
        "The comparison",
        table=table(results),
        charts=tuple(chart for chart, _ in shown.values()),
        sources=("results.json",),
    )
    for name, (chart, title) in shown.items():
        with whole_file(folder / name) as partial:
            partial.write_bytes(png(chart, title))
    for path, text in (
        (folder / "table.md", f"{lead(results)}\n\n{markdown.table(section.table)}\n" if section.table else ""),
        (page, html.page(lead(results), (section,), list(results["variants"]))),
    ):
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
