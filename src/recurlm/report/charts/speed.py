"""What quality costs in time, and how time grows with length."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from recurlm.report.charts.base import Chart, base, colour, drawn, finish, shape
from recurlm.report.found import Row

PRECISIONS = ("fp32", "int8", "int4")


def against_quality(found: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Bits per byte against tokens a second, a point for each bundle.

    Args:
        found: rows of variant, causal, precision, speed, bits.
    """
    charts = []
    for causal in (True, False):
        kind = [row for row in found if row["causal"] is causal]
        if not kind:
            continue
        verb, bits = ("writes", "bits per byte") if causal else ("fills", "pseudo-bits per byte")
        scale = alt.Scale(domain=list(PRECISIONS), range=["circle", "square", "triangle-up"])
        chart = base(kind).encode(
            x=alt.X(
                "speed:Q",
                title=f"onnxruntime {verb}, tokens/s on this machine",
                scale=alt.Scale(zero=False, padding=25),
                axis=alt.Axis(format="~s", tickCount=5),
            ),
            y=alt.Y("bits:Q", title=f"{bits} on test (less is better)", scale=alt.Scale(zero=False, padding=20)),
            color=colour(names),
            tooltip=["variant:N", "precision:N", alt.Tooltip("speed:Q", title="tokens/s", format=",.0f"), "bits:Q"],
        )
        points = chart.mark_point(filled=True, size=110, opacity=1).encode(
            shape=alt.Shape("precision:N", scale=scale, legend=None)
        )
        labels = chart.mark_text(dy=-12, fontSize=11).encode(text="precision:N")
        lines = chart.mark_line(strokeWidth=1, opacity=0.5).encode(order="place:Q")
        caption = f"Quality against the speed of {'writing' if causal else 'filling (cloze)'}"
        file = "speed.svg" if causal else ""
        charts.append(Chart(caption, finish(lines + points + labels), drawn(kind, names), file=file))
    return tuple(charts)


def training_against_quality(found: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Args:
    found: rows of variant, causal, minutes, bits: of models that read from the left.
    """
    kind = [row for row in found if row["causal"]]
    if not kind:
        return ()
    chart = base(kind).encode(
        x=alt.X("minutes:Q", title="minutes of training on this machine", scale=alt.Scale(zero=False, padding=30)),
        y=alt.Y("bits:Q", title="bits per byte on test (less is better)", scale=alt.Scale(zero=False, padding=20)),
        color=colour(names),
        tooltip=["variant:N", "minutes:Q", "bits:Q"],
    )
    points = chart.mark_point(filled=True, size=110, opacity=1).encode(shape=shape(names))
    labels = chart.mark_text(dy=-13, fontSize=11).encode(text="variant:N")
    return (Chart("Quality against time of training", finish(points + labels), drawn(kind, names)),)


def by_length(found: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Seconds against length, both on logarithmic scales: a straight line of slope 1 is linear growth.

    Args:
        found: rows of variant, work ("training" or "generation"), tokens, seconds.
    """
    charts = []
    titles = {
        "training": ("A training step by sequence length", "tokens of a row", "seconds a step"),
        "generation": ("Generation by length", "tokens written", "seconds"),
    }
    for work, (caption, x, y) in titles.items():
        kind = [row for row in found if row["work"] == work]
        if not kind:
            continue
        lengths = sorted({row["tokens"] for row in kind})
        chart = base(kind).encode(
            x=alt.X("tokens:Q", title=x, scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=lengths)),
            y=alt.Y("seconds:Q", title=y, scale=alt.Scale(type="log"), axis=alt.Axis(format="~g", tickCount=4)),
            color=colour(names),
            shape=shape(names),
            tooltip=["variant:N", "tokens:Q", alt.Tooltip("seconds:Q", format=".3f")],
        )
        lines = chart.mark_line(point=alt.OverlayMarkDef(filled=True, size=55), strokeWidth=2)
        charts.append(Chart(caption, finish(lines), drawn(kind, names)))
    return tuple(charts)
