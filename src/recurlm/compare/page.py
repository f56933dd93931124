"""The comparison as a table, three pictures and a page."""

from __future__ import annotations

import math
import statistics
from pathlib import Path
from typing import Any

import altair as alt
import pandas as pd

from recurlm.compare.results import FEWEST_UNITS
from recurlm.report.drawing import Chart, Palette, base, lines, png
from recurlm.report.page import as_html, legend
from recurlm.report.tables import Column, Table, grid, markdown
from recurlm.storage import whole_file

Results = dict[str, Any]


def table(results: Results) -> Table:
    """A row a variant, the lowest loss first."""
    parts = dict(sorted(results["variants"].items(), key=lambda item: item[1]["nats_per_token"]))
    columns = (
        Column("parameters"),
        Column("trials", head="trials (diverged)"),
        Column("nats_per_token", ",.3f", "test nats per token"),
        Column("nats_spread", ",.3f", "spread of seeds"),
        Column("perplexity_per_token", ",.1f", "perplexity"),
        Column("interval"),
        Column("bits_per_byte", ",.3f"),
        Column("difference", head=f"nats against {results['reference'] or 'a reference'}"),
        Column("validation_nats_at_equal_seconds", ",.3f", f"validation nats after {results['equal_seconds']:,.0f} s"),
        Column("training_tokens_per_second", ",.0f", "training tokens/s"),
        Column("generation_us_fp32", ",.0f", "generation fp32, µs"),
        Column("generation_us_int8", ",.0f", "int8, µs"),
        Column("state_bytes", head="state, bytes"),
    )
    rows = [
        part
        | part["speed"]
        | {
            "trials": f"{part['trials']} ({part['diverged_trials']})",
            "interval": _ends(part["perplexity_interval"]),
            "difference": _difference(part["against_reference"]),
        }
        for part in parts.values()
    ]
    return grid("variant", pd.DataFrame(rows, index=list(parts)), columns)


def _difference(found: Results | None) -> str | None:
    if found is None:
        return None
    ends = "" if found["interval"] is None else " ({:+.3f} to {:+.3f})".format(*found["interval"])
    return f"{found['nats_per_token']:+.3f}{ends}: {found['verdict']}"


def _ends(interval: list[float] | None) -> str | None:
    return None if interval is None else "{:.1f} to {:.1f}".format(*interval)


def pictures(results: Results) -> dict[str, Chart]:
    """File name → the chart."""
    palette = Palette(tuple(results["variants"]))
    drawn = {"quality.png": _quality, "seconds.png": _curves, "state.png": _state}
    return {name: draw(results, palette) for name, draw in drawn.items()}


def _quality(results: Results, palette: Palette) -> Chart:
    rows, ticks = [], []
    for name, part in results["variants"].items():
        low, high = part["perplexity_interval"] or [None, None]
        rows.append({"variant": name, "perplexity": part["perplexity_per_token"], "low": low, "high": high})
        ticks += [{"variant": name, "perplexity": math.exp(nats)} for nats in part["nats_by_seed"]]
    order = sorted(palette.names, key=lambda name: results["variants"][name]["nats_per_token"])
    y = alt.Y("variant:N", title=None, sort=order)
    x = alt.X("low:Q", title="perplexity per token on test (less is better)", scale=alt.Scale(zero=False))
    frame = pd.DataFrame(rows)
    colour, shape = palette.colour(frame), palette.shape(frame)
    chart = base(frame).encode(y=y, color=colour)
    layers = [
        chart.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q"),
        chart.mark_point(filled=True, size=70, opacity=1).encode(x="perplexity:Q", shape=shape),
        base(pd.DataFrame(ticks)).mark_tick(thickness=1, size=14).encode(y=y, x="perplexity:Q", color=colour),
    ]
    caption = f"Test perplexity: mean of {len(results['seeds'])} seeds and its interval; ticks: seeds"
    return palette.chart(caption, alt.LayerChart(layer=layers), frame, 26 * len(order) + 40)


def _curves(results: Results, palette: Palette) -> Chart:
    rows = []
    for name, part in results["variants"].items():
        rate = part["speed"]["training_tokens_per_second"]
        for points in zip(*part["curves"], strict=True):
            mean = statistics.fmean(loss for _, loss in points)
            rows.append({"variant": name, "seconds": points[0][0] / rate, "loss": mean})
    frame = pd.DataFrame(rows)
    x = alt.X("seconds:Q", title="seconds of training on this machine")
    y = alt.Y("loss:Q", title="validation nats per token", scale=alt.Scale(zero=False))
    caption = f"Validation loss by seconds of training, mean of {len(results['seeds'])} seeds"
    return palette.chart(caption, lines(frame, palette, x, y, []), frame)


def _state(results: Results, palette: Palette) -> Chart:
    rows = [
        {
            "variant": name,
            "precision": precision,
            "µs": part["speed"][f"generation_us_{precision}"],
            "nats": part["nats_per_token"],
            "bytes": part["state_bytes"],
        }
        for name, part in results["variants"].items()
        for precision in ("fp32", "int8")
    ]
    frame = pd.DataFrame(rows)
    chart = base(frame).encode(
        x=alt.X("µs:Q", title="onnxruntime, µs a token on one thread"),
        y=alt.Y("nats:Q", title="test nats per token", scale=alt.Scale(zero=False, padding=15)),
        color=palette.colour(frame),
    )
    ends = [int(frame["bytes"].min()), int(frame["bytes"].max())]
    legend = alt.Legend(orient="bottom", title="state, bytes", values=ends, format=",", symbolType="circle")
    size = alt.Size("bytes:Q", scale=alt.Scale(type="log", domain=ends, range=[40, 400]), legend=legend)
    marks = chart.encode(shape=palette.shape(frame), size=size)
    layers = [
        chart.mark_line(strokeWidth=1, opacity=0.5),
        *(
            marks.transform_filter(alt.datum.precision == precision).mark_point(filled=filled, opacity=1)
            for precision, filled in (("fp32", False), ("int8", True))
        ),
    ]
    caption = "Test loss against generation time: int8 filled, fp32 not; size: bytes of the state"
    return palette.chart(caption, alt.LayerChart(layer=layers), frame)


def lead(results: Results) -> str:
    """What was done, in one paragraph."""
    trials = next(iter(results["variants"].values()))["trials"]
    interval = f"{results['confidence']:.0%} bootstrap intervals over {results['units']} {results['unit']}s"
    if results["units"] < FEWEST_UNITS:
        interval = f"no intervals, since {results['units']} {results['unit']}s are too few"
    return (
        f"Each variant was tuned by {trials} trials of {results['trial_tokens']:,} tokens, trained on "
        f"{results['training_tokens']:,} tokens from {len(results['seeds'])} seed(s), and scored once on "
        f"{results['test_tokens']:,} test tokens of {results['corpus']['name']} ({results['tokenizer']['kind']}, "
        f"{results['tokenizer']['vocab_size']:,} tokens); {interval}. A variant is called better or worse than "
        f"{results['reference'] or 'the reference'} only where the interval of the difference, which knows of other "
        "text and of other seeds, leaves 0 out."
    )


def write(results: Results, folder: Path, page: Path) -> None:
    """Write table.md and the pictures into `folder`, and the page."""
    shown, compared = pictures(results), table(results)
    for name, chart in shown.items():
        with whole_file(folder / name) as partial:
            partial.write_bytes(png(chart, chart.caption))
    legends = legend(Palette(tuple(results["variants"])))
    content = {"table": compared, "charts": {"comparison": tuple(shown.values())}, **legends}
    for path, text in (
        (folder / "table.md", f"{lead(results)}\n\n{markdown(compared)}\n"),
        (page, as_html(lead(results), content, "compare.j2")),
    ):
        with whole_file(path) as partial:
            partial.write_text(text, encoding="utf-8")
