"""Speed against quality, and time against sequence length."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from recurlm.report.charts.base import Chart, base, colour, drawn, finish, shape
from recurlm.report.frames import Row
from recurlm.report.objectives import by_objective

PRECISIONS = ("fp32", "int8", "int4")


def against_quality(rows: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Bits per byte against tokens a second, a point for each bundle.

    Args:
        rows: of variant, objective, precision, order (of the precisions), speed, bits.
    """
    charts = []
    for objective, bundles in by_objective(rows):
        bits = objective.unit("bits per byte")
        scale = alt.Scale(domain=list(PRECISIONS), range=["circle", "square", "triangle-up"])
        chart = base(bundles).encode(
            x=alt.X(
                "speed:Q",
                title=f"onnxruntime {objective.verb}, tokens/s on this machine",
                scale=alt.Scale(zero=False, padding=35),
                axis=alt.Axis(format="~s", tickCount=5),
            ),
            y=alt.Y("bits:Q", title=f"{bits} on test (less is better)", scale=alt.Scale(zero=False, padding=20)),
            color=colour(names),
            tooltip=["variant:N", "precision:N", alt.Tooltip("speed:Q", title="tokens/s", format=",.0f"), "bits:Q"],
        )
        points = chart.mark_point(filled=True, size=110, opacity=1).encode(
            shape=alt.Shape("precision:N", scale=scale, legend=None)
        )
        lines = chart.mark_line(strokeWidth=1, opacity=0.5).encode(order="order:Q")
        caption = objective.caption("Quality against inference speed")
        file = "" if objective.pseudo else "speed.svg"
        charts.append(
            Chart(
                caption,
                finish(alt.LayerChart(layer=[lines, points, *_precisions(chart)])),
                drawn(bundles, names),
                file=file,
            )
        )
    return tuple(charts)


def _precisions(chart: alt.Chart) -> list[alt.Chart]:
    """Labels of the points, each precision's on a side of its own: points of one model may lie close together."""
    sides: dict[str, dict[str, Any]] = {
        "fp32": {"align": "center", "dy": -13},
        "int8": {"align": "right", "dx": -9},
        "int4": {"align": "left", "dx": 9},
    }
    return [
        chart.transform_filter(f"datum.precision == '{precision}'")
        .mark_text(fontSize=11, **side)
        .encode(text="precision:N")
        for precision, side in sides.items()
    ]


def training_against_quality(rows: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Bits per byte against training time.

    Args:
        rows: of variant, minutes, bits; left-to-right models only.
    """
    if not rows:
        return ()
    chart = base(rows).encode(
        x=alt.X("minutes:Q", title="minutes of training on this machine", scale=alt.Scale(zero=False, padding=30)),
        y=alt.Y("bits:Q", title="bits per byte on test (less is better)", scale=alt.Scale(zero=False, padding=20)),
        color=colour(names),
        tooltip=["variant:N", "minutes:Q", "bits:Q"],
    )
    points = chart.mark_point(filled=True, size=110, opacity=1).encode(shape=shape(names))
    labels = chart.mark_text(dy=-13, fontSize=11).encode(text="variant:N")
    return (Chart("Quality against training time", finish(points + labels), drawn(rows, names)),)


def by_length(rows: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Seconds against length, both on logarithmic scales: a straight line of slope 1 is linear growth.

    Args:
        rows: of variant, work ("training" or "generation"), tokens, seconds.
    """
    charts = []
    titles = {
        "training": ("Training step by sequence length", "tokens per sequence", "seconds per step"),
        "generation": ("Generation by length", "tokens generated", "seconds"),
    }
    for work, (caption, x, y) in titles.items():
        timed = [row for row in rows if row["work"] == work]
        if not timed:
            continue
        lengths = sorted({row["tokens"] for row in timed})
        chart = base(timed).encode(
            x=alt.X("tokens:Q", title=x, scale=alt.Scale(type="log", base=2), axis=alt.Axis(values=lengths)),
            y=alt.Y("seconds:Q", title=y, scale=alt.Scale(type="log"), axis=alt.Axis(format="~g", tickCount=4)),
            color=colour(names),
            shape=shape(names),
            tooltip=["variant:N", "tokens:Q", alt.Tooltip("seconds:Q", format=".3f")],
        )
        lines = chart.mark_line(point=alt.OverlayMarkDef(filled=True, size=55), strokeWidth=2)
        charts.append(Chart(caption, finish(lines), drawn(timed, names)))
    return tuple(charts)
