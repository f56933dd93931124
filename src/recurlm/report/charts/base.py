"""What all charts share: colours and shapes, the parameter that hides variants, and rendering a spec to SVG."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from recurlm.report import palette
from recurlm.report.frames import Row

VEGA_LITE = "6.4"
# Vega knows no `currentColor`: what has this colour takes the text's.
INK = "#010203"
THEMES = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"
HEIGHT = 270
SHOWN = "indexof(off, datum.variant) < 0"
DIGITS = 5


@dataclass(frozen=True)
class Chart:
    """A Vega-Lite chart: interactive on the page, under the page's legend; static as a file, with its own legend."""

    caption: str
    spec: dict[str, Any]
    variants: tuple[str, ...]  # those drawn, in the order of params.yaml
    lines: tuple[tuple[str, str], ...] = ()  # what solid and dashed lines mean
    file: str = ""  # its name as a file beside the page
    wide: bool = False
    cloze: tuple[str, ...] = ()  # the variants that the legend marks as cloze models


def significant(value: float | None) -> float | None:
    """The value rounded to DIGITS significant digits; None if it is not finite."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def round_floats(rows: Iterable[Row]) -> list[Row]:
    return [
        {key: significant(value) if isinstance(value, float) else value for key, value in row.items()} for row in rows
    ]


def drawn(rows: Iterable[Row], names: Sequence[str]) -> tuple[str, ...]:
    """The variants that have rows, in the order of `names`."""
    plotted = {row["variant"] for row in rows}
    return tuple(name for name in names if name in plotted)


def colour(names: Sequence[str]) -> alt.Color:
    scale = alt.Scale(domain=list(names), range=list(palette.colours(names).values()))
    return alt.Color("variant:N", scale=scale, title=None)


def shape(names: Sequence[str]) -> alt.Shape:
    scale = alt.Scale(domain=list(names), range=list(palette.shapes(names).values()))
    return alt.Shape("variant:N", scale=scale, title=None)


def dash(field: str, meanings: Sequence[str]) -> alt.StrokeDash:
    """The first of the meanings is a solid line, the second a dashed one."""
    return alt.StrokeDash(f"{field}:N", scale=alt.Scale(domain=list(meanings), range=[[1, 0], [5, 4]]), title=None)


def base(rows: Iterable[Row]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=round_floats(rows))).transform_filter(SHOWN)


def finish(chart: alt.Chart | alt.LayerChart, height: int = HEIGHT) -> dict[str, Any]:
    """The spec for the page: as wide as its container, with the parameter that the page's legend sets."""
    spec: dict[str, Any] = chart.add_params(alt.param(name="off", value=[])).to_dict()
    spec.pop("config", None)  # the page has its own, for light and for dark
    return spec | {"width": "container", "height": height, "autosize": {"type": "fit-x", "contains": "padding"}}


def config(ink: str, grid_opacity: float = 0.12) -> dict[str, Any]:
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
    """The spec for a file: of a fixed width, with a legend of the variants that are drawn."""
    spec = _with_legend(chart.spec, chart)
    spec.pop("autosize")
    if "layer" in spec:  # invisible points that only show tooltips
        spec["layer"] = [layer for layer in spec["layer"] if layer["mark"].get("opacity") != 0]
    return {**spec, "width": width, "config": config(ink), **more}


def _with_legend(spec: Any, chart: Chart) -> Any:
    """The spec with legends below the chart: one of colours and shapes, one of dashes."""
    if isinstance(spec, list):
        return [_with_legend(part, chart) for part in spec]
    if not isinstance(spec, dict):
        return spec
    label = f"datum.label + (indexof({list(chart.cloze)}, datum.label) < 0 ? '' : ' (cloze)')"
    spec = {key: value if key in {"datasets", "data"} else _with_legend(value, chart) for key, value in spec.items()}
    for channel in ("color", "shape", "strokeDash"):
        if isinstance(encoding := spec.get(channel), dict) and "field" in encoding and "scale" in encoding:
            variants: Row = {"values": list(chart.variants), "labelExpr": label}
            shown: Row = variants if encoding["field"] == "variant" else {"symbolType": "stroke"}
            legend: Row = {"orient": "bottom", "title": None, "columns": 4, "labelLimit": 0, "symbolSize": 90}
            legend |= {"symbolOpacity": 1, **shown}
            if encoding["field"] == "variant":
                pairs = zip(encoding["scale"]["domain"], encoding["scale"]["range"], strict=True)
                scale = {name: value for name, value in pairs if name in chart.variants}
                encoding = encoding | {"scale": {"domain": list(scale), "range": list(scale.values())}}
            spec[channel] = {**encoding, "legend": None if encoding.get("legend", 1) is None else legend}
    return spec


def svg(chart: Chart) -> str:
    """The chart as SVG that follows the reader's light or dark mode."""
    spec = static_spec(chart, INK, width=640 if chart.wide else 380)
    drawing = str(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)).replace(INK, "currentColor")
    head, body = drawing.split(">", 1)
    return f"{head}>{THEMES}{body}\n"
