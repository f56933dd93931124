"""The report as Markdown."""

from __future__ import annotations

import re

from recurlm.report.page_sections import TITLE
from recurlm.report.samples import Sample
from recurlm.report.section import Section
from recurlm.report.tables import Cell, Table


def page(lead: str, sections: tuple[Section, ...]) -> str:
    return "\n".join([f"# {TITLE}", "", escape(lead), "", *(_section(section) for section in sections)])


def _section(section: Section) -> str:
    blocks = [f"## {section.title}", *(escape(note) for note in section.notes), *(escape(gap) for gap in section.gaps)]
    if section.table:
        blocks.append(table(section.table))
    for caption, content in section.tables:
        blocks += [f"**{escape(caption)}**", table(content)]
    blocks += [f"**{chart.caption}**\n\n![{chart.caption}]({chart.file})" for chart in section.charts if chart.file]
    blocks += [_sample(sample) for sample in section.samples]
    blocks += [f"- **{term}**: {meaning}" for term, meaning in section.terms]
    if section.sources:
        blocks.append(f"Numbers from {', '.join(f'`{source}`' for source in section.sources)}")
    return "\n\n".join(blocks) + "\n"


def table(content: Table) -> str:
    """A Markdown table: the first column left-aligned, all others right-aligned."""
    heads = [escape(head) for head in content.heads]
    rule = [":--", *("--:" for _ in heads[1:])]
    rows = [[_cell(cell) for cell in row] for row in content.rows]
    return "\n".join(f"| {' | '.join(row)} |" for row in (heads, rule, *rows))


def _cell(cell: Cell) -> str:
    return f"**{escape(cell.text)}**" if cell.best else escape(cell.text)


def _sample(sample: Sample) -> str:
    if sample.problem:
        return f"### {sample.variant}\n\nNo sample: {escape(sample.problem)}"
    # A fence longer than any run of backticks in the text is not closed by it.
    longest = max((len(run) for run in re.findall("`+", sample.full_text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"### {sample.variant}\n\n{fence}text\n{sample.full_text}\n{fence}"


def escape(text: str) -> str:
    """The text with all Markdown markup escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|~&])", r"\\\1", " ".join(text.split()))
