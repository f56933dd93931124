"""One section of the report, independent of Markdown and HTML."""

from __future__ import annotations

from dataclasses import dataclass

from recurlm.report.charts.base import Chart
from recurlm.report.heat_map import HeatMap
from recurlm.report.samples import Sample
from recurlm.report.tables import Table


@dataclass(frozen=True)
class Temperature:
    """Generated texts of one variant at one temperature, and their measures."""

    temperature: float
    measures: tuple[tuple[str, str], ...]
    texts: tuple[tuple[tuple[str, bool], ...], ...]  # spans of each: (text, whether the model generated it)


@dataclass(frozen=True)
class Section:
    title: str
    notes: tuple[str, ...] = ()
    table: Table | None = None
    charts: tuple[Chart, ...] = ()
    samples: tuple[Sample, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()  # caption → table
    temperatures: tuple[tuple[str, tuple[Temperature, ...]], ...] = ()  # variant → one column per temperature
    heat_map: HeatMap | None = None
    gaps: tuple[str, ...] = ()  # what is missing: "lstm: data/metrics/… is missing"
    sources: tuple[str, ...] = ()  # the files that hold its numbers
