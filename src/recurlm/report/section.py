"""One part of a report, apart from how a page draws it."""

from __future__ import annotations

from dataclasses import dataclass

from recurlm.report.charts.base import Chart
from recurlm.report.coloured import Coloured
from recurlm.report.samples import Sample
from recurlm.report.tables import Table


@dataclass(frozen=True)
class Temperature:
    """Texts of one variant at one temperature, and their measures."""

    temperature: float
    measures: tuple[tuple[str, str], ...]
    texts: tuple[tuple[tuple[str, bool], ...], ...]  # each in stretches: the text, and whether the model wrote it


@dataclass(frozen=True)
class Section:
    title: str
    notes: tuple[str, ...] = ()
    table: Table | None = None
    charts: tuple[Chart, ...] = ()
    samples: tuple[Sample, ...] = ()
    terms: tuple[tuple[str, str], ...] = ()
    tables: tuple[tuple[str, Table], ...] = ()  # more of them, under captions
    temperatures: tuple[tuple[str, tuple[Temperature, ...]], ...] = ()  # variant → its texts side by side
    coloured: Coloured | None = None
    gaps: tuple[str, ...] = ()  # what is missing, and of whom
    sources: tuple[str, ...] = ()  # the files that all its numbers stand in
