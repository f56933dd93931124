"""How the models learned: against tokens and against time, and what happens where there is little text."""

from __future__ import annotations

from collections.abc import Sequence

import altair as alt

from recurlm.report.charts.base import HEIGHT, Chart, base, colour, dash, drawn, finish, shape
from recurlm.report.found import Row
from recurlm.report.results import Results

SIDES = ("validation", "train")


def rows(results: Results) -> list[Row]:
    """The points of all curves at which the validation split was scored."""
    return [
        {
            "variant": result.name,
            "causal": result.causal,
            "step": point.step,
            "tokens": point.tokens,
            "minutes": None if point.seconds is None else point.seconds / 60,
            "loss": point.validation_loss,
        }
        for result in results.variants
        for point in result.curve
        if point.validation_loss is not None
    ]


def curves(results: Results) -> tuple[Chart, ...]:
    """Against tokens and against wall time; cloze models on scales of their own."""
    names, found = list(results.params.variants), rows(results)
    charts = []
    for causal in (True, False):
        kind = [row for row in found if row["causal"] is causal]
        timed = [row for row in kind if row["minutes"] is not None]
        unit = "nats per token" if causal else "pseudo-nats per token"
        who = "left to right" if causal else "cloze, on a scale of its own"
        file = "curves" if causal else "curves-cloze"
        if kind:
            x = alt.X("tokens:Q", title="training tokens", axis=alt.Axis(format="~s", tickCount=6))
            charts.append(_curve(kind, names, x, unit, f"Validation loss against tokens: {who}", f"{file}.svg"))
        if timed:
            x = alt.X("minutes:Q", title="minutes of training on this machine", axis=alt.Axis(tickCount=6))
            charts.append(
                _curve(timed, names, x, unit, f"Validation loss against wall time: {who}", f"{file}-time.svg")
            )
    return tuple(charts)


def _curve(found: list[Row], names: Sequence[str], x: alt.X, unit: str, caption: str, file: str) -> Chart:
    chart = base(found).encode(
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
    return Chart(caption, finish(lines), drawn(found, names), file=file)


def short_runs(found: Sequence[Row], names: Sequence[str]) -> tuple[Chart, ...]:
    """Train and validation loss of the short runs, without and with dropout, on the same scale.

    Args:
        found: rows of variant, causal, dropout, step, side ("train" or "validation") and loss.
    """
    charts = []
    for causal in (True, False):
        kind = [row for row in found if row["causal"] is causal]
        losses = [row["loss"] for row in kind]
        for dropout in sorted({row["dropout"] for row in kind}):
            part = [row for row in kind if row["dropout"] == dropout]
            unit = "nats per token" if causal else "pseudo-nats per token"
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
            amount = f"dropout {dropout:g}" if dropout else "without dropout"
            caption = amount.capitalize() if causal else f"Cloze, {amount}"
            meanings = (("solid", "validation"), ("dashed", "train"))
            charts.append(Chart(caption, finish(lines, HEIGHT - 20), drawn(part, names), meanings))
    return tuple(charts)
