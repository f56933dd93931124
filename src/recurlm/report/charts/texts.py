"""Measures of generated text against temperature."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from recurlm.report.charts.base import Chart, base, colour, drawn, finish, shape
from recurlm.report.frames import Row


def by_temperature(
    rows: Sequence[Row], names: Sequence[str], measures: Sequence[tuple[str, str, str]]
) -> tuple[Chart, ...]:
    """One chart a measure, with the same measure of held-out text as a grey line.

    Args:
        rows: of variant, temperature and the measures; a row without a temperature is the held-out text's.
        measures: key, caption, and d3's format of each.
    """
    charts = []
    for key, caption, form in measures:
        values = [
            {"variant": row["variant"], "temperature": row["temperature"], "measure": row[key]}
            for row in rows
            if row.get(key) is not None and row["temperature"] is not None
        ]
        if not values:
            continue
        held_out = next((row[key] for row in rows if row["temperature"] is None and row.get(key) is not None), None)
        chart = base(values).encode(
            x=alt.X("temperature:Q", title="temperature", scale=alt.Scale(zero=False), axis=alt.Axis(tickCount=6)),
            y=alt.Y("measure:Q", title=None, scale=alt.Scale(zero=False), axis=alt.Axis(format=form, tickCount=5)),
            color=colour(names),
            shape=shape(names),
            tooltip=["variant:N", "temperature:Q", alt.Tooltip("measure:Q", title=caption, format=form)],
        )
        layers: alt.Chart | alt.LayerChart = chart.mark_line(point=alt.OverlayMarkDef(filled=True, size=55))
        if held_out is not None:
            limit = alt.Chart(alt.InlineData(values=[{"held_out": held_out}]))
            layers += limit.mark_rule(strokeDash=[2, 3], color="#7f7f7f").encode(
                y="held_out:Q", tooltip=[alt.Tooltip("held_out:Q", title="held-out text", format=form)]
            )
        charts.append(Chart(caption, finish(layers, 200), drawn(values, names)))
    return tuple(charts)
