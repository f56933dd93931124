"""What all charts share: the colours and shapes of variants, the signal that hides them, and SVG and PNG files."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd
import vl_convert
from PIL import Image

from recurlm.report.results import OBJECTIVES, Objective

VEGA_LITE = "6.4"
# After Okabe & Ito 2008, "Color universal design"; the dark one of its pair where a line must stand out on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#7f7f7f", "#e69f00", "#56b4e9", "#9467bd")
SHAPES = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")
# The same as characters, none of which is drawn as an emoji.
MARKS = dict(zip(SHAPES, "●■▲◆✚▼◄►", strict=True))
INK, PAPER = "#1f2328", "#ffffff"
# Vega knows no `currentColor`: what has this colour takes the text's.
CURRENT = "#010203"
THEMES = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"
HEIGHT = 270
POINTS = alt.OverlayMarkDef(filled=True, size=50)  # on lines
PNG_COLOURS = 64


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart: interactive on the page, whose buttons are its legend; static as a file, with Vega's own."""

    caption: str
    spec: dict[str, Any]
    variants: tuple[str, ...]  # those drawn, in the order of params.yaml
    lines: tuple[str, ...] = ()  # what solid and dashed lines mean
    file: str = ""  # its name as a file beside the page
    wide: bool = False


@dataclass(frozen=True)
class Palette:
    """The colour and the shape of each variant, by its place in params.yaml: no two have both."""

    names: tuple[str, ...]
    cloze: tuple[str, ...] = ()  # the variants that legends mark as cloze models

    def chart(
        self, caption: str, chart: alt.Chart | alt.LayerChart, frame: pd.DataFrame, height: int = HEIGHT, **more: Any
    ) -> Chart:
        """What is drawn of the rows, finished; `more` are fields of a `Chart`."""
        return Chart(caption, finish(chart, height), self.drawn(frame), **more)

    @property
    def colours(self) -> dict[str, str]:
        return {name: COLOURS[place % len(COLOURS)] for place, name in enumerate(self.names)}

    @property
    def shapes(self) -> dict[str, str]:
        rounds = len(COLOURS)  # where colours come again, they come with the next shape
        return {name: SHAPES[(place + place // rounds) % len(SHAPES)] for place, name in enumerate(self.names)}

    def drawn(self, frame: pd.DataFrame) -> tuple[str, ...]:
        """The variants that have rows."""
        return tuple(name for name in self.names if name in set(frame["variant"]))

    def colour(self, frame: pd.DataFrame) -> alt.Color:
        return alt.Color("variant:N", scale=self._scale(frame, self.colours), legend=self._legend())

    def shape(self, frame: pd.DataFrame) -> alt.Shape:
        return alt.Shape("variant:N", scale=self._scale(frame, self.shapes), legend=self._legend())

    def _scale(self, frame: pd.DataFrame, values: dict[str, str]) -> alt.Scale:
        drawn = self.drawn(frame)
        return alt.Scale(domain=list(drawn), range=[values[name] for name in drawn])

    def _legend(self) -> alt.Legend:
        label = f"datum.label + (indexof({list(self.cloze)}, datum.label) < 0 ? '' : ' (cloze)')"
        return bottom_legend(labelExpr=label)


def bottom_legend(**more: Any) -> alt.Legend:
    """A legend below the chart; the page switches it off."""
    return alt.Legend(orient="bottom", title=None, columns=4, labelLimit=0, symbolSize=90, symbolOpacity=1, **more)


def dash(field: str, meanings: tuple[str, str]) -> alt.StrokeDash:
    """The first of the meanings is a solid line, the second a dashed one."""
    scale = alt.Scale(domain=list(meanings), range=[[1, 0], [5, 4]])
    return alt.StrokeDash(f"{field}:N", scale=scale, legend=bottom_legend(symbolType="stroke"))


def lines(
    frame: pd.DataFrame, palette: Palette, x: alt.X, y: alt.Y, tooltip: list[str | alt.Tooltip], *dashes: alt.StrokeDash
) -> alt.Chart:
    """A line a variant, with its shape at each row."""
    encodings = (x, y, palette.colour(frame), palette.shape(frame), *dashes)
    drawn: alt.Chart = base(frame).mark_line(point=POINTS, strokeWidth=2)
    return drawn.encode(*encodings, tooltip=["variant:N", *tooltip])


def by_objective(frame: pd.DataFrame) -> Iterator[tuple[Objective, pd.DataFrame]]:
    """(objective, its rows) for each objective that has rows."""
    for objective in OBJECTIVES:
        part = frame[frame["objective"] == objective.name]
        if len(part):
            yield objective, part


def base(frame: pd.DataFrame) -> alt.Chart:
    """A chart of the rows, rounded to five digits, of the variants that are not switched off."""
    rounded = frame.map(lambda value: float(f"{value:.5g}") if isinstance(value, float) else value)
    rows = [{key: value for key, value in row.items() if not pd.isna(value)} for row in rounded.to_dict("records")]
    return alt.Chart(alt.InlineData(values=rows)).transform_filter("indexof(off, datum.variant) < 0")


def finish(chart: alt.Chart | alt.LayerChart, height: int = HEIGHT) -> dict[str, Any]:
    """The spec for the page: as wide as its container, with the parameter that the page's buttons set."""
    spec: dict[str, Any] = chart.add_params(alt.param(name="off", value=[])).to_dict()
    spec.pop("config", None)  # the page has its own, for light and for dark
    return spec | {"width": "container", "height": height, "autosize": {"type": "fit-x", "contains": "padding"}}


def config(ink: str, grid_opacity: float = 0.12) -> dict[str, Any]:
    """Vega's configuration for text and lines of this colour."""
    text = dict.fromkeys(("domainColor", "gridColor", "labelColor", "tickColor", "titleColor"), ink)
    axis = {**text, "gridOpacity": grid_opacity, "labelFontSize": 12, "titleFontSize": 12, "titleFontWeight": "normal"}
    return {
        "font": "sans-serif",
        "background": "transparent",
        "axis": axis,
        "legend": {"labelColor": ink, "titleColor": ink, "labelFontSize": 12, "symbolStrokeColor": ink},
        "title": {"color": ink, "fontSize": 14, "fontWeight": 600, "anchor": "start", "offset": 12},
        "view": {"stroke": None},
    }


def static_spec(chart: Chart, ink: str, width: int, **more: Any) -> dict[str, Any]:
    """The spec for a file, of a fixed width."""
    spec = {key: value for key, value in chart.spec.items() if key != "autosize"}
    return {**spec, "width": width, "config": config(ink), **more}


def svg(chart: Chart) -> str:
    """The chart as SVG that follows the reader's light or dark mode."""
    spec = static_spec(chart, CURRENT, width=640 if chart.wide else 380)
    drawing = str(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)).replace(CURRENT, "currentColor")
    # Vega numbers its clip paths through all charts of a process: the same chart shall be the same bytes.
    numbers: dict[str, int] = {}
    drawing = re.sub(r"\bclip(\d+)\b", lambda match: f"clip{numbers.setdefault(match[1], len(numbers))}", drawing)
    head, body = drawing.split(">", 1)
    return f"{head}>{THEMES}{body}\n"


def png(chart: Chart, title: str) -> bytes:
    """The chart as PNG on white, at twice the screen's resolution, with a small palette."""
    spec = static_spec(chart, INK, width=560, title=title, background=PAPER, padding=14)
    drawn = vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=2)
    with Image.open(io.BytesIO(drawn)) as image, io.BytesIO() as file:
        image.convert("RGB").quantize(PNG_COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        return file.getvalue()
