"""Learning curves against tokens and wall time, and the short runs that overfit."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from recurlm.report.charts.base import HEIGHT, Chart, base, colour, dash, drawn, finish, shape
from recurlm.report.frames import Row
from recurlm.report.objectives import by_objective
from recurlm.report.results import Results

SIDES = ("validation", "train")


def rows(results: Results) -> list[Row]:
    """All points of the learning curves that have a validation loss."""
    return [
        {
            "variant": result.name,
            "objective": result.objective.name,
            "step": point.step,
            "tokens": point.tokens,
            "minutes": None if point.seconds is None else point.seconds / 60,
            "train_loss": point.train_loss,
            "loss": point.validation_loss,
        }
        for result in results.variants
        for point in result.curve
        if point.validation_loss is not None
    ]


def curves(results: Results) -> tuple[Chart, ...]:
    """Validation loss against tokens and against wall time; each objective on a scale of its own."""
    names = list(results.params.variants)
    charts = []
    for objective, points in by_objective(rows(results)):
        timed = [row for row in points if row["minutes"] is not None]
        unit, file = objective.unit("nats per token"), f"curves{'-cloze' if objective.pseudo else ''}"
        x = alt.X("tokens:Q", title="training tokens", axis=alt.Axis(format="~s", tickCount=6))
        caption = f"Validation loss against tokens: {objective.label}"
        charts.append(_curve(points, names, x, unit, caption, f"{file}.svg"))
        if timed:
            x = alt.X("minutes:Q", title="minutes of training on this machine", axis=alt.Axis(tickCount=6))
            caption = f"Validation loss against wall time: {objective.label}"
            charts.append(_curve(timed, names, x, unit, caption, f"{file}-time.svg"))
    return tuple(charts)


def _curve(points: list[Row], names: Sequence[str], x: alt.X, unit: str, caption: str, file: str) -> Chart:
    chart = base(points).encode(
        x=x,
        y=alt.Y("loss:Q", title=f"validation loss, {unit}", scale=alt.Scale(zero=False)),
        color=colour(names),
        shape=shape(names),
        tooltip=[
            "variant:N",
            "step:Q",
            alt.Tooltip("tokens:Q", format=","),
            "minutes:Q",
            alt.Tooltip("loss:Q", title=unit),
        ],
    )
    lines = chart.mark_line(point=alt.OverlayMarkDef(filled=True, size=60), strokeWidth=2)
    return Chart(caption, finish(lines), drawn(points, names), file=file)


def short_runs(points: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Train and validation loss of the short runs, without and with dropout, on the same scale.

    Args:
        points: rows of variant, objective, dropout, step, side ("train" or "validation") and loss.
    """
    charts = []
    for objective, comparable in by_objective(points):
        losses = [row["loss"] for row in comparable]
        for dropout in sorted({row["dropout"] for row in comparable}):
            part = [row for row in comparable if row["dropout"] == dropout]
            unit = objective.unit("nats per token")
            scale = alt.Scale(domain=[min(losses), max(losses)], nice=True, zero=False)
            chart = base(part).encode(
                x=alt.X("step:Q", title="training steps", axis=alt.Axis(tickCount=6)),
                y=alt.Y("loss:Q", title=unit, scale=scale),
                color=colour(names),
                shape=shape(names),
                strokeDash=dash("side", SIDES),
                tooltip=["variant:N", "side:N", "step:Q", alt.Tooltip("loss:Q", title=unit)],
            )
            lines = chart.mark_line(point=alt.OverlayMarkDef(filled=True, size=50), strokeWidth=2)
            caption = objective.caption(f"Dropout {dropout:g}" if dropout else "Without dropout")
            meanings = (("solid", "validation"), ("dashed", "train"))
            charts.append(Chart(caption, finish(lines, HEIGHT - 20), drawn(part, names), meanings))
    return tuple(charts)
