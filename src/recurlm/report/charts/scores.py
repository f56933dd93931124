"""Perplexities with their intervals; loss by position in a window and by token frequency."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from recurlm.report.charts.base import Chart, base, colour, drawn, finish, shape
from recurlm.report.frames import Row
from recurlm.report.objectives import by_objective


def perplexities(rows: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Perplexity with its interval, each protocol in a row of its own.

    Args:
        rows: of variant, protocol, perplexity, low, high, tokens; left-to-right models only.
    """
    if not rows:
        return ()
    protocols = list(dict.fromkeys(row["protocol"] for row in rows))
    variants = drawn(rows, names)
    chart = base(rows).encode(
        y=alt.Y("protocol:N", title=None, sort=protocols, axis=alt.Axis(labelLimit=190, ticks=False, domain=False)),
        yOffset=alt.YOffset("variant:N", sort=list(variants), scale=alt.Scale(paddingInner=0.3)),
        color=colour(names),
        tooltip=[
            "variant:N",
            "protocol:N",
            alt.Tooltip("perplexity:Q", format=".2f"),
            alt.Tooltip("low:Q", title="interval from", format=".2f"),
            alt.Tooltip("high:Q", title="to", format=".2f"),
            alt.Tooltip("tokens:Q", format=","),
        ],
    )
    x = alt.X("low:Q", title="perplexity per token on test", scale=alt.Scale(zero=False))
    rules = chart.mark_rule(strokeWidth=2).encode(x=x, x2="high:Q")
    points = chart.mark_point(filled=True, size=70, opacity=1).encode(x="perplexity:Q", shape=shape(names))
    height = 20 * len(protocols) * len(variants) + 60
    return (Chart("Perplexity by protocol", finish(rules + points, height), variants, wide=True),)


def by_position(rows: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Loss against position in a cold window.

    Args:
        rows: of variant, position (geometric mean of a bin), positions (the bin), loss, low, high.
    """
    if not rows:
        return ()
    farthest = max(row["position"] for row in rows)
    axis = alt.Axis(values=[4**power for power in range(10) if 4**power <= farthest])
    x = alt.X("position:Q", title="tokens read before", scale=alt.Scale(type="log", nice=False), axis=axis)
    chart = base(rows).encode(x=x, color=colour(names), tooltip=_loss("positions:N", "nats"))
    spec = _banded(chart, names, "nats per token")
    return (Chart("Loss by position in a cold window", spec, drawn(rows, names)),)


def by_frequency(rows: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Loss against token frequency, one chart per objective.

    Args:
        rows: of variant, objective, count (in the train split, a bin), loss, low, high, fraction (of scored tokens).
    """
    charts = []
    for objective, comparable in by_objective(rows):
        counts = list(dict.fromkeys(row["count"] for row in comparable))
        unit = objective.unit("nats")
        axis = alt.Axis(labelAngle=-35, labelLimit=120)
        x = alt.X("count:O", title="occurrences in the train split", sort=counts, axis=axis)
        chart = base(comparable).encode(x=x, color=colour(names), tooltip=_loss("count:N", unit))
        spec = _banded(chart, names, f"{unit} per token")
        charts.append(Chart(objective.caption("Loss by token frequency"), spec, drawn(comparable, names)))
    return tuple(charts)


def _loss(bin_field: str, unit: str) -> list[str | alt.Tooltip]:
    bounds = [
        alt.Tooltip("low:Q", title="interval from", format=".2f"),
        alt.Tooltip("high:Q", title="to", format=".2f"),
    ]
    return ["variant:N", bin_field, alt.Tooltip("loss:Q", title=unit, format=".3f"), *bounds]


def _banded(chart: alt.Chart, names: Sequence[str], title: str) -> dict[str, object]:
    band = chart.mark_area(opacity=0.13, tooltip=None).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    line = chart.encode(y=alt.Y("loss:Q", title=title, scale=alt.Scale(zero=False)), shape=shape(names))
    return finish(band + line.mark_line(point=alt.OverlayMarkDef(filled=True, size=50), strokeWidth=2))
