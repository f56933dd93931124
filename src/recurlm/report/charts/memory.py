"""Gradient flow, effective context and gate saturation."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from recurlm.report.charts.base import HEIGHT, Chart, base, colour, dash, drawn, finish, shape
from recurlm.report.frames import Row
from recurlm.report.objectives import by_objective

# The smallest norm that is drawn: far below, float32 has only zeros and numbers without precision.
FLOOR = 1e-8
MOMENTS = ("after training", "before training")
TREATMENTS = ("shuffled", "thinned out")


def gradient_flow(norms: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Gradient norms against distance, before and after training, all variants on one plot.

    Args:
        norms: rows of variant, series, moment, k, state and input (norms, or None).
    """
    charts: list[Chart] = []
    for field, what, file in (("state", "the state", "gradients.svg"), ("input", "the embedded token", "")):
        points = [
            {key: row[key] for key in ("variant", "series", "moment", "k", field)}
            for row in norms
            if row[field] is not None and row[field] >= FLOOR
        ]
        if not points:
            continue
        chart = base(points).encode(
            x=alt.X("k:Q", title="tokens back, k", axis=alt.Axis(tickCount=8)),
            y=alt.Y(
                f"{field}:Q",
                title="mean norm of the gradient",
                scale=alt.Scale(type="log", domainMin=FLOOR, nice=False),
                axis=alt.Axis(format=".0e", tickCount=6),
            ),
            color=colour(names),
            strokeDash=dash("moment", MOMENTS),
            tooltip=["series:N", "moment:N", "k:Q", alt.Tooltip(f"{field}:Q", format=".2e", title="norm")],
        )
        layers = chart.mark_line(strokeWidth=1.8) + chart.mark_point(size=40, opacity=0, filled=True)
        meanings = (("solid", "after training"), ("dashed", "before"))
        caption = f"The loss at step t with respect to {what} at t − k"
        charts.append(
            Chart(caption, finish(layers, HEIGHT + 40), drawn(points, names), meanings, file, wide=not charts)
        )
    return tuple(charts)


def context(cut: Sequence[Row], beyond: Sequence[Row], names: Sequence[str], tolerance: float) -> tuple[Chart, ...]:
    """Loss as the context is cut, and as it is shuffled or thinned out beyond k; one chart per objective.

    Args:
        cut: rows of variant, objective, k, increase, low, high.
        beyond: the same and treatment.
        tolerance: nats that a cut may cost within the effective context.
    """
    charts = []
    for objective, rows in by_objective(cut):
        caption = objective.caption(f"Context cut to k tokens{objective.context_side}")
        file = "" if objective.pseudo else "context.svg"
        spec = _cut(rows, names, objective.unit("nats"), tolerance)
        charts.append(Chart(caption, spec, drawn(rows, names), file=file))
    for objective, rows in by_objective(beyond):
        caption = objective.caption(f"Context perturbed beyond k tokens{objective.context_side}")
        meanings = (("solid", "shuffled"), ("dashed", "thinned out"))
        charts.append(Chart(caption, _beyond(rows, names, objective.unit("nats")), drawn(rows, names), meanings))
    return tuple(charts)


def _cut(rows: Sequence[Row], names: Sequence[str], unit: str, tolerance: float) -> dict[str, object]:
    chart = base(rows).encode(x=_back(rows), color=colour(names), tooltip=_increase(unit, ()))
    y = alt.Y("increase:Q", title=f"increase of the loss, {unit} per token")
    band = chart.mark_area(opacity=0.13, tooltip=None).encode(y=alt.Y("low:Q"), y2="high:Q")
    lines = chart.encode(y=y, shape=shape(names)).mark_line(point=alt.OverlayMarkDef(filled=True, size=55))
    limit = alt.Chart(alt.InlineData(values=[{"limit": tolerance}]))
    rule = limit.mark_rule(strokeDash=[2, 3], opacity=0.7, color="#7f7f7f").encode(y="limit:Q")
    return finish(rule + band + lines)


def _beyond(rows: Sequence[Row], names: Sequence[str], unit: str) -> dict[str, object]:
    chart = base(rows).encode(
        x=_back(rows),
        y=alt.Y("increase:Q", title=f"increase of the loss, {unit} per token"),
        color=colour(names),
        strokeDash=dash("treatment", TREATMENTS),
        shape=shape(names),
        tooltip=_increase(unit, ("treatment:N",)),
    )
    return finish(chart.mark_line(point=alt.OverlayMarkDef(filled=True, size=55)))


def _back(rows: Sequence[Row]) -> alt.X:
    axis = alt.Axis(values=sorted({row["k"] for row in rows}))
    return alt.X("k:Q", title="k, tokens", scale=alt.Scale(type="log", nice=False), axis=axis)


def _increase(unit: str, more: tuple[str, ...]) -> list[str | alt.Tooltip]:
    bounds = [
        alt.Tooltip("low:Q", title="interval from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"),
    ]
    return ["variant:N", *more, "k:Q", alt.Tooltip("increase:Q", title=unit, format=".3f"), *bounds]


def gates(rows: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Saturated activations of each gate: closed ones to the left, open ones to the right.

    Args:
        rows: of variant, gate (with its layer), closed and open (fractions).
    """
    if not rows:
        return ()
    bars = [
        {"variant": row["variant"], "gate": f"{row['variant']} {row['gate']}", "side": side, "bar": sign * row[side]}
        | {"fraction": row[side]}
        for row in rows
        for side, sign in (("closed", -1), ("open", 1))
    ]
    # As wide as the data: both sides alike, so that lengths compare, and never so narrow that noise looks like much.
    widest = max(0.05, *(abs(row["bar"]) for row in bars))
    axis = alt.Axis(labelExpr="format(abs(datum.value), '.0%')", tickCount=5)
    chart = base(bars).encode(
        x=alt.X("bar:Q", title="← closed · open →", axis=axis, scale=alt.Scale(domain=[-widest, widest])),
        y=alt.Y("gate:N", title=None, sort=None, axis=alt.Axis(labelLimit=220, ticks=False, domain=False)),
        color=colour(names),
        opacity=alt.condition("datum.side == 'closed'", alt.value(0.55), alt.value(1)),
        tooltip=["gate:N", "side:N", alt.Tooltip("fraction:Q", format=".1%")],
    )
    height = 22 * len(rows) + 40
    return (Chart("Saturated gates", finish(chart.mark_bar(height=13), height), drawn(rows, names), wide=True),)
