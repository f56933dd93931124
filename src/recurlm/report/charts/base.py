"""What all charts share: a variant's colour and mark, a switch that hides variants, and how a spec becomes a file."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import vl_convert

from recurlm.report import look
from recurlm.report.found import Row

VEGA_LITE = "6.4"
# Vega knows no `currentColor`: what has this colour takes the text's.
INK = "#010203"
THEMES = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"
HEIGHT = 270
SHOWN = "indexof(off, datum.variant) < 0"
DIGITS = 5


@dataclass(frozen=True)
class Chart:
    """One picture. In the page it is interactive and has its legend beside it; as a file it has one of its own."""

    caption: str
    spec: dict[str, Any]
    variants: tuple[str, ...]  # those drawn, in the order of params.yaml
    lines: tuple[tuple[str, str], ...] = ()  # what solid and dashed lines mean
    file: str = ""  # its name as a file beside the page
    wide: bool = False
    cloze: tuple[str, ...] = ()  # those of the variants that a legend must mark


def significant(value: float | None) -> float | None:
    """Enough digits for a picture, and no more bytes than those."""
    if value is None or not math.isfinite(value):
        return None
    return float(f"{value:.{DIGITS}g}")


def rounded(rows: Iterable[Row]) -> list[Row]:
    return [
        {key: significant(value) if isinstance(value, float) else value for key, value in row.items()} for row in rows
    ]


def drawn(rows: Iterable[Row], names: Sequence[str]) -> tuple[str, ...]:
    there = {row["variant"] for row in rows}
    return tuple(name for name in names if name in there)


def colour(names: Sequence[str]) -> alt.Color:
    scale = alt.Scale(domain=list(names), range=list(look.colours(names).values()))
    return alt.Color("variant:N", scale=scale, title=None)


def shape(names: Sequence[str]) -> alt.Shape:
    scale = alt.Scale(domain=list(names), range=list(look.marks(names).values()))
    return alt.Shape("variant:N", scale=scale, title=None)


def dash(field: str, meanings: Sequence[str]) -> alt.StrokeDash:
    """The first of the meanings is a solid line, the second a dashed one."""
    return alt.StrokeDash(f"{field}:N", scale=alt.Scale(domain=list(meanings), range=[[1, 0], [5, 4]]), title=None)


def base(rows: Iterable[Row]) -> alt.Chart:
    return alt.Chart(alt.InlineData(values=rounded(rows))).transform_filter(SHOWN)


def finish(chart: alt.Chart | alt.LayerChart, height: int = HEIGHT) -> dict[str, Any]:
    """The spec of a page: as wide as its place, with the switch that the page's legend turns."""
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


def standing_alone(chart: Chart, ink: str, width: int, **more: Any) -> dict[str, Any]:
    """The spec of a file: of a fixed width, with a legend of those variants that are drawn."""
    spec = _with_legend(chart.spec, chart)
    spec.pop("autosize")
    if "layer" in spec:  # what only a pointer can find
        spec["layer"] = [layer for layer in spec["layer"] if layer["mark"].get("opacity") != 0]
    return {**spec, "width": width, "config": config(ink), **more}


def _with_legend(spec: Any, chart: Chart) -> Any:
    """The variants' colours and marks in one legend, and what dashes mean in another, all under the chart."""
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
                kept = {name: seen for name, seen in pairs if name in chart.variants}
                encoding = encoding | {"scale": {"domain": list(kept), "range": list(kept.values())}}
            spec[channel] = {**encoding, "legend": None if encoding.get("legend", 1) is None else legend}
    return spec


def svg(chart: Chart) -> str:
    """A picture that takes its reader's light or dark mode."""
    spec = standing_alone(chart, INK, width=640 if chart.wide else 380)
    drawing = str(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE)).replace(INK, "currentColor")
    head, body = drawing.split(">", 1)
    return f"{head}>{THEMES}{body}\n"
