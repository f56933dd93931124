"""The charts of a report, each from rows of the table of metrics."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import altair as alt
import pandas as pd

from recurlm.report.drawing import HEIGHT, Chart, Palette, base, by_objective, dash, lines
from recurlm.report.metrics import ADAPTIVE, Metrics
from recurlm.report.results import OBJECTIVES

FLOOR = 1e-8  # the smallest norm that is drawn: far below, float32 has only zeros and numbers without precision
PRECISIONS = ("fp32", "int8", "int4")
LOSSES = ("validation", "train")
MOMENTS = ("after training", "before training")
PERTURBED = ("shuffled", "thinned out")
Tooltips = list[str | alt.Tooltip]


def scores(metrics: Metrics, palette: Palette) -> Iterator[Chart]:
    """Perplexity on the test split with its bootstrap interval, one chart an objective."""
    for objective, frame in by_objective(metrics.rows("static", "perplexity_per_token", split="test")):
        title = objective.unit("perplexity per token on test (less is better)")
        chart = base(frame).encode(
            y=alt.Y("variant:N", title=None, sort=list(palette.names)),
            color=palette.colour(frame),
            tooltip=["variant:N", *_value_with_interval(".2f")],
        )
        caption, height = objective.caption("Perplexity with its interval"), 34 * frame["variant"].nunique() + 60
        yield palette.chart(caption, _dots(chart, palette, frame, title), frame, height)


def _dots(chart: alt.Chart, palette: Palette, frame: pd.DataFrame, title: str) -> alt.LayerChart:
    x = alt.X("low:Q", title=title, scale=alt.Scale(zero=False))
    rules = chart.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q")
    points = chart.mark_point(filled=True, size=70, opacity=1).encode(x="value:Q", shape=palette.shape(frame))
    return alt.LayerChart(layer=[rules, points])


def _value_with_interval(form: str, title: str = "value") -> Tooltips:
    titles = {"value": title, "low": "interval from", "high": "to"}
    return [alt.Tooltip(f"{field}:Q", title=name, format=form) for field, name in titles.items()]


def learning_curves(metrics: Metrics, palette: Palette) -> Iterator[Chart]:
    """Loss during training against tokens and against wall time, one chart an objective each."""
    axes = {
        "": alt.X("at:Q", title="training tokens", axis=alt.Axis(format="~s", tickCount=6)),
        " by minutes": alt.X("at:Q", title="minutes of training on this machine", axis=alt.Axis(tickCount=6)),
    }
    for objective in OBJECTIVES:
        for suffix, x in axes.items():
            frame = metrics.rows((f"log{suffix}", f"curve{suffix}"), "nats_per_token", objective=objective.name)
            if len(frame):
                caption = f"Loss against {'wall time' if suffix else 'tokens'}: {objective.label}"
                file = f"curves{'-cloze' if objective.pseudo else ''}{'-time' if suffix else ''}.svg"
                drawn = _curve(frame, palette, x, objective.unit("nats per token"))
                yield palette.chart(caption, drawn, frame, lines=LOSSES, file=file)


def _curve(frame: pd.DataFrame, palette: Palette, x: alt.X, unit: str) -> alt.LayerChart:
    """Lines of the log, and the evaluations of the whole validation split as points on them.

    Without a log, as an earlier version trained, the evaluations are the line.
    """
    logged = set(frame.loc[frame["protocol"].str.startswith("log"), "variant"])
    is_log = frame["protocol"].str.startswith("log") | ~frame["variant"].isin(logged)
    whole = frame[frame["protocol"].str.startswith("curve") & (frame["split"] == "validation")]
    # The first losses are those of guessing, and would press all others together.
    top = frame.loc[(frame["split"] == "validation") | (frame["at"] > frame["at"].max() / 10), "value"].max()
    y = alt.Y("value:Q", title=f"loss, {unit}", scale=alt.Scale(zero=False, domainMax=top))
    value = alt.Tooltip("value:Q", title=unit)
    tooltip: Tooltips = ["variant:N", "split:N", alt.Tooltip("at:Q", format=",.4~r"), value]
    curves = base(frame[is_log]).encode(x, y, palette.colour(frame), dash("split", LOSSES), tooltip=tooltip)
    opacity = alt.condition("datum.split == 'train'", alt.value(0.55), alt.value(1))
    points = base(whole).encode(x, y, palette.colour(frame), palette.shape(frame), tooltip=tooltip)
    drawn = curves.mark_line(strokeWidth=1.6, clip=True).encode(opacity=opacity)
    return alt.LayerChart(layer=[drawn, points.mark_point(filled=True, size=60, opacity=1)])


def short_runs(metrics: Metrics, palette: Palette) -> Iterator[Chart]:
    """Train and validation loss of the short runs, without and with dropout, on one scale an objective."""
    runs = metrics.table[metrics.table["protocol"].str.startswith("dropout ") & metrics.table["at"].notna()]
    x = alt.X("at:Q", title="training steps", axis=alt.Axis(tickCount=6))
    tooltip: Tooltips = ["split:N", alt.Tooltip("at:Q", title="step"), "value:Q"]
    for objective, comparable in by_objective(runs):
        scale = alt.Scale(domain=[comparable["value"].min(), comparable["value"].max()], nice=True, zero=False)
        y = alt.Y("value:Q", title=objective.unit("nats per token"), scale=scale)
        for protocol, frame in comparable.groupby("protocol", sort=False):
            caption = objective.caption("Without dropout" if protocol == "dropout 0" else str(protocol).capitalize())
            drawn = lines(frame, palette, x, y, tooltip, dash("split", LOSSES))
            yield palette.chart(caption, drawn, frame, HEIGHT - 20, lines=LOSSES)


def perplexities(metrics: Metrics, palette: Palette) -> Iterator[Chart]:
    """Perplexity with its interval by protocol; a protocol of a part stands beside the static score of that part."""
    adaptive = [name for each in ADAPTIVE for name in (f"static for {each}", each)]
    protocols = ["static", "cold_windows", *adaptive]
    frame = metrics.rows(protocols, "perplexity_per_token", objective="causal")
    if not len(frame):
        return
    whole = metrics.value(frame["variant"].iloc[0], "tokens", "static")
    tokens = metrics.rows(protocols, "tokens", objective="causal").groupby("protocol")["value"].max()
    names = {}
    for protocol in filter(tokens.__contains__, protocols):
        name, same, _ = protocol.replace("_", " ").partition(" for ")
        if tokens[protocol] != whole:
            names[protocol] = f"{name}, {'the same' if same else 'first'} {tokens[protocol]:,.0f}"
        elif not same:
            names[protocol] = name
    frame = frame.assign(protocol=frame["protocol"].map(names)).dropna(subset="protocol")
    order = list(dict.fromkeys(names.values()))
    axis = alt.Axis(labelLimit=190, ticks=False, domain=False)
    chart = base(frame).encode(
        y=alt.Y("protocol:N", title=None, sort=order, axis=axis),
        yOffset=alt.YOffset("variant:N", sort=list(palette.drawn(frame)), scale=alt.Scale(paddingInner=0.3)),
        color=palette.colour(frame),
        tooltip=["variant:N", "protocol:N", *_value_with_interval(".2f", "perplexity")],
    )
    drawn, height = _dots(chart, palette, frame, "perplexity per token on test"), 20 * len(order)
    yield palette.chart("Perplexity by protocol", drawn, frame, height * frame["variant"].nunique() + 60, wide=True)


def loss_by_position(metrics: Metrics, palette: Palette) -> Iterator[Chart]:
    """Loss against the position in a cold window."""
    frame = metrics.rows("position")
    if len(frame):
        axis = alt.Axis(values=[4**power for power in range(10) if 4**power <= frame["at"].max()])
        x = alt.X("at:Q", title="tokens read before", scale=alt.Scale(type="log", nice=False), axis=axis)
        yield palette.chart("Loss by position in a cold window", _banded(frame, palette, x, "nats per token"), frame)


def loss_by_frequency(metrics: Metrics, palette: Palette) -> Iterator[Chart]:
    """Loss against how often the token occurs in the train split, one chart an objective."""
    for objective, frame in by_objective(metrics.rows("frequency")):
        x = alt.X("at:O", title="occurrences in the train split, at least", axis=alt.Axis(labelAngle=0))
        drawn = _banded(frame, palette, x, objective.unit("nats per token"))
        yield palette.chart(objective.caption("Loss by token frequency"), drawn, frame)


def _banded(frame: pd.DataFrame, palette: Palette, x: alt.X, title: str) -> alt.LayerChart:
    """Lines in their intervals."""
    tooltip: Tooltips = ["at:Q", *_value_with_interval(".3f", title)]
    y = alt.Y("value:Q", title=title, scale=alt.Scale(zero=False))
    band = base(frame).encode(x, alt.Y("low:Q", title=title), palette.colour(frame), y2="high:Q")
    return alt.LayerChart(layer=[band.mark_area(opacity=0.13, tooltip=None), lines(frame, palette, x, y, tooltip)])


def gradient_flow(metrics: Metrics, palette: Palette) -> Iterator[Chart]:
    """Gradient norms against distance, before and after training, all variants on one plot."""
    for metric, what, file in (("state_mean", "the state", "gradients.svg"), ("input_mean", "the embedded token", "")):
        frame = metrics.rows(MOMENTS, metric).query("value >= @FLOOR")
        if not len(frame):
            continue
        x = alt.X("at:Q", title="tokens back, k", axis=alt.Axis(tickCount=8))
        scale = alt.Scale(type="log", domainMin=FLOOR, nice=False)
        axis = alt.Axis(format=".0e", tickCount=6)
        y = alt.Y("value:Q", title="mean norm of the gradient", scale=scale, axis=axis)
        value = alt.Tooltip("value:Q", format=".2e")
        tooltip: Tooltips = ["variant:N", "protocol:N", alt.Tooltip("at:Q", title="k"), value]
        chart = base(frame).encode(x, y, palette.colour(frame), dash("protocol", MOMENTS), tooltip=tooltip)
        caption, drawn = f"The loss at step t with respect to {what} at t − k", chart.mark_line(strokeWidth=1.8)
        meanings = ("after training", "before")
        yield palette.chart(caption, drawn, frame, HEIGHT + 40, lines=meanings, file=file, wide=bool(file))


def context(metrics: Metrics, palette: Palette, tolerance: float) -> Iterator[Chart]:
    """Loss as the context is cut, and as it is shuffled or thinned out beyond k; one chart an objective each."""
    for objective, frame in by_objective(metrics.rows("cut", "increase")):
        caption = objective.caption(f"Context cut to k tokens{objective.context_side}")
        title = f"increase of the loss, {objective.unit('nats')} per token"
        drawn = alt.LayerChart(layer=[_level(tolerance, 0.7), _banded(frame, palette, _back(frame), title)])
        yield palette.chart(caption, drawn, frame, file="" if objective.pseudo else "context.svg")
    for objective, frame in by_objective(metrics.rows(PERTURBED, "increase")):
        caption = objective.caption(f"Context perturbed beyond k tokens{objective.context_side}")
        y = alt.Y("value:Q", title=f"increase of the loss, {objective.unit('nats')} per token")
        tooltip: Tooltips = ["protocol:N", "at:Q", *_value_with_interval(".3f")]
        perturbed = lines(frame, palette, _back(frame), y, tooltip, dash("protocol", PERTURBED))
        yield palette.chart(caption, perturbed, frame, lines=PERTURBED)


def _back(frame: pd.DataFrame) -> alt.X:
    axis = alt.Axis(values=sorted(set(frame["at"])))
    return alt.X("at:Q", title="k, tokens", scale=alt.Scale(type="log", nice=False), axis=axis)


def _level(value: float, opacity: float = 1.0, **more: Any) -> alt.Chart:
    """A dotted grey line at a value of y."""
    rows = alt.Chart(alt.InlineData(values=[{"level": value}])).encode(y="level:Q", **more)
    rule: alt.Chart = rows.mark_rule(strokeDash=[2, 3], color="#7f7f7f", opacity=opacity)
    return rule


def gates(metrics: Metrics, palette: Palette) -> Iterator[Chart]:
    """Saturated activations of each gate: closed ones to the left, open ones to the right."""
    frame = metrics.table[metrics.table["metric"].isin(("fraction_closed", "fraction_open"))]
    if not len(frame):
        return
    side = frame["metric"].str.removeprefix("fraction_")
    gate = frame["variant"] + frame["protocol"].str.removeprefix("gate")
    frame = frame.assign(side=side, gate=gate, bar=frame["value"].where(side == "open", -frame["value"]))
    # As wide as the data: both sides alike, so that lengths compare, and never so narrow that noise looks like much.
    widest = max(0.05, frame["value"].max())
    axis = alt.Axis(labelExpr="format(abs(datum.value), '.0%')", tickCount=5)
    chart = base(frame).encode(
        x=alt.X("bar:Q", title="← closed · open →", axis=axis, scale=alt.Scale(domain=[-widest, widest])),
        y=alt.Y("gate:N", title=None, sort=None, axis=alt.Axis(labelLimit=220, ticks=False, domain=False)),
        color=palette.colour(frame),
        opacity=alt.condition("datum.side == 'closed'", alt.value(0.55), alt.value(1)),
        tooltip=["gate:N", "side:N", alt.Tooltip("value:Q", format=".1%")],
    )
    bars = chart.mark_bar(height=13)
    yield palette.chart("Saturated gates", bars, frame, 22 * frame["gate"].nunique() + 40, wide=True)


def quality_against_speed(bundles: pd.DataFrame, palette: Palette) -> Iterator[Chart]:
    """Bits per byte against tokens a second, a point for each bundle.

    Args:
        bundles: of variant, objective, precision, speed, bits; the precisions of a variant in their order.
    """
    for objective, frame in by_objective(bundles):
        axis = alt.Axis(format="~s", tickCount=5)
        title = f"onnxruntime {objective.verb}, tokens/s on this machine"
        x = alt.X("speed:Q", title=title, scale=alt.Scale(zero=False, padding=35), axis=axis)
        title = f"{objective.unit('bits per byte')} on test (less is better)"
        y = alt.Y("bits:Q", title=title, scale=alt.Scale(zero=False, padding=20))
        speed = alt.Tooltip("speed:Q", title="tokens/s", format=",.0f")
        tooltip: Tooltips = ["variant:N", "precision:N", speed, "bits:Q"]
        chart = base(frame).encode(x, y, palette.colour(frame), tooltip=tooltip)
        shapes = alt.Scale(domain=list(PRECISIONS), range=["circle", "square", "triangle-up"])
        shape = alt.Shape("precision:N", scale=shapes, legend=None)
        points = chart.mark_point(filled=True, size=110, opacity=1).encode(shape=shape)
        steps = chart.mark_line(strokeWidth=1, opacity=0.5).encode(order="order:Q")
        drawn = alt.LayerChart(layer=[steps, points, *_precision_labels(chart)])
        caption, file = objective.caption("Quality against inference speed"), "" if objective.pseudo else "speed.svg"
        yield palette.chart(caption, drawn, frame, file=file)


def _precision_labels(chart: alt.Chart) -> Iterator[alt.Chart]:
    """Labels of the points, each precision's on a side of its own: points of one model may lie close together."""
    sides: dict[str, dict[str, Any]] = {
        "fp32": {"align": "center", "dy": -13},
        "int8": {"align": "center", "dy": 15},
        "int4": {"align": "center", "dy": -14},  # not beside it: int8 may lie on either side
    }
    for precision, side in sides.items():
        of_one = chart.transform_filter(f"datum.precision == '{precision}'")
        yield of_one.mark_text(fontSize=11, **side).encode(text="precision:N")


def quality_against_training(trained: pd.DataFrame, palette: Palette) -> Iterator[Chart]:
    """Bits per byte against training time.

    Args:
        trained: of variant, minutes, bits; left-to-right models only.
    """
    if len(trained):
        x = alt.X("minutes:Q", title="minutes of training on this machine", scale=alt.Scale(zero=False, padding=30))
        y = alt.Y("bits:Q", title="bits per byte on test (less is better)", scale=alt.Scale(zero=False, padding=20))
        chart = base(trained).encode(x, y, palette.colour(trained), tooltip=["variant:N", "minutes:Q", "bits:Q"])
        points = chart.mark_point(filled=True, size=110, opacity=1).encode(palette.shape(trained))
        labels = chart.mark_text(dy=-13, fontSize=11).encode(text="variant:N")
        yield palette.chart("Quality against training time", points + labels, trained)


def time_by_length(metrics: Metrics, palette: Palette) -> Iterator[Chart]:
    """Seconds against length, both on logarithmic scales: a straight line of slope 1 is linear growth."""
    titles = {
        "training_step_seconds": ("Training step by sequence length", "tokens per sequence", "seconds per step"),
        "generation_seconds": ("Generation by length", "tokens generated", "seconds"),
    }
    for metric, (caption, x_title, y_title) in titles.items():
        frame = metrics.rows("length", metric)
        if len(frame):
            axis = alt.Axis(values=sorted(set(frame["at"])))
            x = alt.X("at:Q", title=x_title, scale=alt.Scale(type="log", base=2), axis=axis)
            axis = alt.Axis(format="~g", tickCount=4)
            y = alt.Y("value:Q", title=y_title, scale=alt.Scale(type="log"), axis=axis)
            tooltip: Tooltips = ["at:Q", alt.Tooltip("value:Q", title="seconds", format=".3f")]
            yield palette.chart(caption, lines(frame, palette, x, y, tooltip), frame)


def text_by_temperature(metrics: Metrics, palette: Palette) -> Iterator[Chart]:
    """One chart a measure of generated text, with the same measure of held-out text as a grey line."""
    measures = {
        "distinct_2": ("Distinct 2-grams, fraction", ".0%"),
        "real_word_fraction": ("Words in the train vocabulary, fraction", ".0%"),
        "mean_longest_copied_words": ("Longest n-gram copied from train, mean words", ".1f"),
    }
    x = alt.X("at:Q", title="temperature", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6))
    for metric, (caption, form) in measures.items():
        frame = metrics.rows("temperature", metric, objective="causal")
        if not len(frame):
            continue
        axis = alt.Axis(format=form, tickCount=5)
        y = alt.Y("value:Q", title=None, scale=alt.Scale(zero=False), axis=axis)
        layers = [lines(frame, palette, x, y, ["at:Q", alt.Tooltip("value:Q", title=caption, format=form)])]
        for held_out in metrics.rows("held-out text", metric, objective="causal")["value"].head(1):
            layers.append(_level(held_out, tooltip=[alt.Tooltip("level:Q", title="held-out text", format=form)]))
        yield palette.chart(caption, alt.LayerChart(layer=layers), frame, 200)
