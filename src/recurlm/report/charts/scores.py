"""Perplexities with their intervals, and where in a context and for which tokens a model loses most."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from recurlm.report.charts.base import Chart, base, colour, drawn, finish, shape
from recurlm.report.found import Row


def perplexities(found: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Each protocol in a row of its own.

    Args:
        found: rows of variant, causal, protocol, perplexity, low, high, tokens: of models that read from the left.
    """
    causal = [row for row in found if row["causal"]]
    if not causal:
        return ()
    protocols = list(dict.fromkeys(row["protocol"] for row in causal))
    who = drawn(causal, names)
    chart = base(causal).encode(
        y=alt.Y("protocol:N", title=None, sort=protocols, axis=alt.Axis(labelLimit=190, ticks=False, domain=False)),
        yOffset=alt.YOffset("variant:N", sort=list(who), scale=alt.Scale(paddingInner=0.3)),
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
    height = 20 * len(protocols) * len(who) + 60
    return (Chart("Perplexity by protocol", finish(rules + points, height), who, wide=True),)


def by_position(found: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Args:
    found: rows of variant, place (the middle of a bucket of positions), positions, loss, low, high.
    """
    if not found:
        return ()
    farthest = max(row["place"] for row in found)
    axis = alt.Axis(values=[4**power for power in range(10) if 4**power <= farthest])
    x = alt.X("place:Q", title="tokens read before", scale=alt.Scale(type="log", nice=False), axis=axis)
    chart = base(found).encode(x=x, color=colour(names), tooltip=_loss("positions:N", "nats"))
    spec = _banded(chart, names, "nats per token")
    return (Chart("Loss by position in a cold window", spec, drawn(found, names)),)


def by_frequency(found: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Args:
    found: rows of variant, causal, count (of the token in the train split, a bucket), loss, low, high, share.
    """
    charts = []
    for causal in (True, False):
        kind = [row for row in found if row["causal"] is causal]
        if not kind:
            continue
        counts = list(dict.fromkeys(row["count"] for row in kind))
        unit = "nats" if causal else "pseudo-nats"
        axis = alt.Axis(labelAngle=-35, labelLimit=120)
        x = alt.X("count:O", title="occurrences in the train split", sort=counts, axis=axis)
        chart = base(kind).encode(x=x, color=colour(names), tooltip=_loss("count:N", unit))
        caption = f"Loss by token frequency{'' if causal else ': cloze'}"
        charts.append(Chart(caption, _banded(chart, names, f"{unit} per token"), drawn(kind, names)))
    return tuple(charts)


def _loss(where: str, unit: str) -> list[str | alt.Tooltip]:
    bounds = [
        alt.Tooltip("low:Q", title="interval from", format=".2f"),
        alt.Tooltip("high:Q", title="to", format=".2f"),
    ]
    return ["variant:N", where, alt.Tooltip("loss:Q", title=unit, format=".3f"), *bounds]


def _banded(chart: alt.Chart, names: Sequence[str], title: str) -> dict[str, object]:
    band = chart.mark_area(opacity=0.13, tooltip=None).encode(y=alt.Y("low:Q", title=title), y2="high:Q")
    line = chart.encode(y=alt.Y("loss:Q", title=title, scale=alt.Scale(zero=False)), shape=shape(names))
    return finish(band + line.mark_line(point=alt.OverlayMarkDef(filled=True, size=50), strokeWidth=2))
