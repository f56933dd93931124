"""How far back a model's gradients, its text and its gates reach."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from recurlm.report.charts.base import HEIGHT, Chart, base, colour, dash, drawn, finish, shape
from recurlm.report.found import Row

# The smallest norm that is drawn: far below, float32 has only zeros and numbers without precision.
FLOOR = 1e-8
MOMENTS = ("after training", "before training")
TREATMENTS = ("shuffled", "thinned out")


def gradient_flow(found: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Gradient norms against distance, before and after training, all variants on one plot.

    Args:
        found: rows of variant, series, moment, k, state and input (norms, or None).
    """
    charts: list[Chart] = []
    for field, what, file in (("state", "the state", "gradients.svg"), ("input", "the embedded token", "")):
        seen = [
            {key: row[key] for key in ("variant", "series", "moment", "k", field)}
            for row in found
            if row[field] is not None and row[field] >= FLOOR
        ]
        if not seen:
            continue
        chart = base(seen).encode(
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
        charts.append(Chart(caption, finish(layers, HEIGHT + 40), drawn(seen, names), meanings, file, wide=not charts))
    return tuple(charts)


def context(cut: Sequence[Row], beyond: Sequence[Row], names: Sequence[str], tolerance: float) -> tuple[Chart, ...]:
    """Loss as the context is cut, and as it is shuffled or thinned out beyond k; cloze models apart.

    Args:
        cut: rows of variant, causal, k, increase, low, high.
        beyond: the same and treatment.
        tolerance: nats that a cut may cost within the effective context.
    """
    charts = []
    for causal in (True, False):
        who = "" if causal else "Cloze, k tokens on either side: "
        unit = "nats" if causal else "pseudo-nats"
        if kind := [row for row in cut if row["causal"] is causal]:
            caption = f"{who}{'T' if causal else 't'}he context cut to k tokens"
            file = "context.svg" if causal else ""
            charts.append(Chart(caption, _cut(kind, names, unit, tolerance), drawn(kind, names), file=file))
        if kind := [row for row in beyond if row["causal"] is causal]:
            caption = f"{who}{'T' if causal else 't'}he context disturbed beyond k tokens"
            meanings = (("solid", "shuffled"), ("dashed", "thinned out"))
            charts.append(Chart(caption, _beyond(kind, names, unit), drawn(kind, names), meanings))
    return tuple(charts)


def _cut(found: Sequence[Row], names: Sequence[str], unit: str, tolerance: float) -> dict[str, object]:
    chart = base(found).encode(x=_back(found), color=colour(names), tooltip=_increase(unit, ()))
    y = alt.Y("increase:Q", title=f"increase of the loss, {unit} per token")
    band = chart.mark_area(opacity=0.13, tooltip=None).encode(y=alt.Y("low:Q"), y2="high:Q")
    lines = chart.encode(y=y, shape=shape(names)).mark_line(point=alt.OverlayMarkDef(filled=True, size=55))
    limit = alt.Chart(alt.InlineData(values=[{"limit": tolerance}]))
    rule = limit.mark_rule(strokeDash=[2, 3], opacity=0.7, color="#7f7f7f").encode(y="limit:Q")
    return finish(rule + band + lines)


def _beyond(found: Sequence[Row], names: Sequence[str], unit: str) -> dict[str, object]:
    chart = base(found).encode(
        x=_back(found),
        y=alt.Y("increase:Q", title=f"increase of the loss, {unit} per token"),
        color=colour(names),
        strokeDash=dash("treatment", TREATMENTS),
        shape=shape(names),
        tooltip=_increase(unit, ("treatment:N",)),
    )
    return finish(chart.mark_line(point=alt.OverlayMarkDef(filled=True, size=55)))


def _back(found: Sequence[Row]) -> alt.X:
    axis = alt.Axis(values=sorted({row["k"] for row in found}))
    return alt.X("k:Q", title="k, tokens", scale=alt.Scale(type="log", nice=False), axis=axis)


def _increase(unit: str, more: tuple[str, ...]) -> list[str | alt.Tooltip]:
    bounds = [
        alt.Tooltip("low:Q", title="interval from", format=".3f"),
        alt.Tooltip("high:Q", title="to", format=".3f"),
    ]
    return ["variant:N", *more, "k:Q", alt.Tooltip("increase:Q", title=unit, format=".3f"), *bounds]


def gates(found: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Saturated activations of each gate: closed ones to the left, open ones to the right.

    Args:
        found: rows of variant, gate (with its layer), closed and open (shares).
    """
    if not found:
        return ()
    bars = [
        {"variant": row["variant"], "gate": f"{row['variant']} {row['gate']}", "side": side, "share": sign * row[side]}
        | {"percent": row[side]}
        for row in found
        for side, sign in (("closed", -1), ("open", 1))
    ]
    axis = alt.Axis(labelExpr="format(abs(datum.value), '.0%')", tickCount=5)
    chart = base(bars).encode(
        x=alt.X("share:Q", title="← closed · open →", axis=axis, scale=alt.Scale(domain=[-1, 1])),
        y=alt.Y("gate:N", title=None, sort=None, axis=alt.Axis(labelLimit=220, ticks=False, domain=False)),
        color=colour(names),
        opacity=alt.condition("datum.side == 'closed'", alt.value(0.55), alt.value(1)),
        tooltip=["gate:N", "side:N", alt.Tooltip("percent:Q", title="share", format=".1%")],
    )
    height = 22 * len(found) + 40
    return (Chart("Saturated gates", finish(chart.mark_bar(height=13), height), drawn(found, names), wide=True),)
