"""Learning curves: validation loss against training tokens, as SVG for pages and as a CSV file for `dvc plots`."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import vl_convert

from recurlm.report.results import Result, Results

CSV = "curves.csv"
# Legible on white and on black; each line has its own marks as well, for eyes and printers that see no colours.
COLOURS = ("#3b82f6", "#d97706", "#16a34a", "#db2777", "#8b5cf6", "#0d9488", "#dc2626", "#78716c")
MARKS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left", "triangle-right")
# Vega knows no `currentColor`: what has this colour takes the text's.
INK = "#010203"
THEMES = "<style>svg{color:#1f2328}@media(prefers-color-scheme:dark){svg{color:#e6edf3}}</style>"


def charts(results: Results) -> dict[str, str]:
    """File name → SVG, for the models that read from left to right and for the cloze models, where there are curves."""
    kinds = {
        "curves.svg": ([result for result in results.variants if result.causal], "nats per token"),
        "curves-cloze.svg": ([result for result in results.variants if not result.causal], "pseudo-nats per token"),
    }
    names = [result.name for result in results.variants]
    return {
        file: _svg(points, unit, names)
        for file, (variants, unit) in kinds.items()
        if (points := [point for result in variants for point in _points(result)])
    }


def standalone(svg: str) -> str:
    """The same picture as a file of its own, which follows the reader's light or dark mode."""
    head, body = svg.split(">", 1)
    return f"{head}>{THEMES}{body}\n"


def _points(result: Result) -> list[dict[str, Any]]:
    return [
        {"variant": result.name, "tokens": point.tokens, "loss": point.validation_loss}
        for point in result.curve
        if point.validation_loss is not None
    ]


def _svg(points: list[dict[str, Any]], unit: str, names: list[str]) -> str:
    drawn = [name for name in names if any(point["variant"] == name for point in points)]
    colours = [COLOURS[names.index(name) % len(COLOURS)] for name in drawn]
    marks = [MARKS[names.index(name) % len(MARKS)] for name in drawn]
    legend = {"orient": "bottom", "title": None, "columns": 4, "symbolSize": 90, "labelLimit": 0}
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "width": 380,
        "height": 250,
        "background": "transparent",
        "data": {"values": points},
        "mark": {"type": "line", "strokeWidth": 2, "point": {"filled": True, "size": 60}},
        "encoding": {
            "x": {"field": "tokens", "type": "quantitative", "title": "training tokens", "axis": {"format": "~s"}},
            "y": {
                "field": "loss",
                "type": "quantitative",
                "title": f"validation loss, {unit}",
                "scale": {"zero": False},
            },
            "color": {"field": "variant", "scale": {"domain": drawn, "range": colours}, "legend": legend},
            "shape": {"field": "variant", "scale": {"domain": drawn, "range": marks}, "legend": legend},
        },
        "config": {
            "font": "sans-serif",
            "axis": {
                **dict.fromkeys(("domainColor", "gridColor", "labelColor", "tickColor", "titleColor"), INK),
                "gridOpacity": 0.12,
                "labelFontSize": 12,
                "titleFontSize": 12,
                "titleFontWeight": "normal",
                "tickCount": 6,
            },
            "legend": {"labelColor": INK, "labelFontSize": 12},
            "view": {"stroke": None},
        },
    }
    return str(vl_convert.vegalite_to_svg(spec, vl_version="5.20")).replace(INK, "currentColor")


def write_csv(path: Path, results: Results) -> None:
    """All curves in one long file: what `dvc plots show` and `dvc plots diff` draw."""
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("variant", "protocol", "step", "tokens", "train_loss", "validation_loss"))
        for result in results.variants:
            protocol = "left to right" if result.causal else "cloze"
            for point in result.curve:
                if point.validation_loss is not None:
                    writer.writerow(
                        (result.name, protocol, point.step, point.tokens, point.train_loss, point.validation_loss)
                    )
