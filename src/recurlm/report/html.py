"""The report as one HTML file without network requests, responsive, in light and dark mode."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path
from typing import Any

import vl_convert

from recurlm.report import palette
from recurlm.report.charts.base import VEGA_LITE, Chart, config
from recurlm.report.heat_map import HeatMap
from recurlm.report.page_sections import TITLE
from recurlm.report.samples import Sample
from recurlm.report.section import Section, Temperature
from recurlm.report.tables import Cell, Table

PAGE = Path(__file__).with_name("page")
# The browser may run the scripts of this file, and fetch nothing.
POLICY = (
    "default-src 'none'; script-src 'unsafe-inline' 'unsafe-eval'; style-src 'unsafe-inline'; img-src data:; "
    "base-uri 'none'; form-action 'none'"
)


def page(lead: str, sections: tuple[Section, ...], names: Sequence[str] = ()) -> str:
    """The whole file.

    Args:
        names: all variants in the order of params.yaml, which decides their colours.
    """
    body = "\n".join(_section(section, names) for section in sections)
    contents = "".join(
        f'<li><a href="#{_anchor(section.title)}">{escape(section.title)}</a></li>' for section in sections
    )
    charted = any(section.charts for section in sections)
    # Without a snippet the bundle exports its names to `window`, which the stubs do not know.
    code = vl_convert.javascript_bundle(None, vl_version=VEGA_LITE) if charted else ""  # type: ignore[arg-type]
    vega = f"<script>{in_a_script(code)}</script>\n" if code else ""
    settings = {"light": config("#1f2328"), "dark": config("#e6edf3", 0.18)}
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{POLICY}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(TITLE)}</title>
<style>{_file("page.css")}</style>
</head>
<body>
<header>
<h1>{escape(TITLE)}</h1>
<p class="lead">{escape(lead)}</p>
<nav aria-label="Contents"><ul>{contents}</ul></nav>
</header>
<main>
{body}
</main>
<script type="application/json" id="settings">{_json(settings)}</script>
{vega}<script>{_file("page.js")}</script>
</body>
</html>
"""


def _file(name: str) -> str:
    return (PAGE / name).read_text(encoding="utf-8")


def _json(value: Any) -> str:
    """JSON with the characters escaped that could end or open an HTML element."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text)


def in_a_script(code: str) -> str:
    """JavaScript that cannot close its <script> element early."""
    return re.sub(r"<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE)


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _section(section: Section, names: Sequence[str]) -> str:
    blocks = [f"<h2>{escape(section.title)}</h2>", *(f"<p>{escape(note)}</p>" for note in section.notes)]
    blocks += [f'<p class="gap">{escape(gap)}</p>' for gap in section.gaps]
    if section.table:
        blocks.append(_table(section.table, section.title))
    if section.charts:
        figures = "".join(_chart(chart, names) for chart in section.charts)
        blocks.append(f'<div class="charts{" three" if len(section.charts) == 3 else ""}">{figures}</div>')
    for caption, table in section.tables:
        blocks.append(f"<h3>{escape(caption)}</h3>\n{_table(table, caption)}")
    if section.temperatures:
        blocks.append(_temperatures(section.temperatures))
    if section.heat_map and section.heat_map.traces:
        blocks.append(_heat_map(section.heat_map))
    blocks += [_sample(sample) for sample in section.samples]
    if section.terms:
        terms = (f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in section.terms)
        blocks.append(f"<dl>{''.join(terms)}</dl>")
    if section.sources:
        files = ", ".join(f"<code>{escape(source)}</code>" for source in section.sources)
        blocks.append(f'<p class="source">Numbers from {files}</p>')
    return f'<section id="{escape(_anchor(section.title))}">\n' + "\n".join(blocks) + "\n</section>"


def _chart(chart: Chart, names: Sequence[str]) -> str:
    colours = palette.colours(names or chart.variants)
    buttons = "".join(
        f'<button type="button" aria-pressed="true" data-variant="{escape(name)}">'
        f'<i style="background:{colours[name]}"></i>{escape(name)}{" (cloze)" if name in chart.cloze else ""}</button>'
        for name in chart.variants
    )
    lines = "".join(f'<span><i class="{kind}"></i>{escape(meaning)}</span>' for kind, meaning in chart.lines)
    kind = ' class="wide"' if chart.wide else ""
    return (
        f"<figure{kind}><figcaption>{escape(chart.caption)}</figcaption>"
        f'<div class="legend" role="group" aria-label="Variants shown">{buttons}{lines}</div>'
        f'<div class="chart" style="min-height:{chart.spec["height"] + 50}px" role="img" '
        f'aria-label="{escape(chart.caption)}"></div>'
        f'<script type="application/json">{_json(chart.spec)}</script></figure>'
    )


def _table(table: Table, label: str) -> str:
    groups = "".join(f'<th colspan="{span}">{escape(text)}</th>' for text, span in table.groups)
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0].text)}</th>{"".join(_cell(cell) for cell in row[1:])}</tr>\n'
        for row in table.rows
    )
    worded = ' class="worded"' if table.words > 1 else ""
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table{worded}>\n'
        f"<thead>{f'<tr>{groups}</tr>' if groups else ''}<tr>{heads}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table></div>"
    )


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    value = "" if cell.value is None else f' data-value="{cell.value!r}"'
    return f"<td{value}><strong>{text}</strong></td>" if cell.best else f"<td{value}>{text}</td>"


def _temperatures(variants: Sequence[tuple[str, tuple[Temperature, ...]]]) -> str:
    """The texts of all variants; page.js shows those of one variant and one sample at a time."""
    options = "".join(f"<option>{escape(name)}</option>" for name, _ in variants)
    most = max((len(column.texts) for _, columns in variants for column in columns), default=0)
    numbers = "".join(f'<option value="{number}">{number + 1}</option>' for number in range(most))
    groups = "".join(
        f'<div class="temperatures" data-variant="{escape(name)}">{"".join(map(_temperature, columns))}</div>'
        for name, columns in variants
    )
    return (
        f'<div class="chosen texts"><label>Variant <select class="variant">{options}</select></label> '
        f'<label>Text <select class="number">{numbers}</select></label></div>\n{groups}'
    )


def _temperature(column: Temperature) -> str:
    measures = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in column.measures)
    texts = "".join(f'<pre data-number="{number}">{_spans(text)}</pre>' for number, text in enumerate(column.texts))
    return f"<article><h3>{column.temperature:g}</h3><dl>{measures}</dl>{texts}</article>"


def _spans(text: Sequence[tuple[str, bool]]) -> str:
    # HTML drops a newline right after <pre>, hence the empty <span>.
    inside = "".join(
        f"<ins>{escape(part)}</ins>" if generated else f'<span class="prompt">{escape(part)}</span>'
        for part, generated in text
    )
    return f"<span></span>{inside}"


def _heat_map(heat_map: HeatMap) -> str:
    options = "".join(
        f'<option value="{number}">{escape(trace.variant)}{f" ({trace.label})" if trace.label else ""}</option>'
        for number, trace in enumerate(heat_map.traces)
    )
    return (
        '<div class="heat-map"><div class="chosen">'
        f'<label>Variant <select class="variant">{options}</select></label> '
        '<label>Colour <select class="quantity"><option value="surprisal">surprisal</option></select></label> '
        '<label class="unit" hidden>Unit <input type="number" min="0" value="0" inputmode="numeric"></label> '
        '<span class="suggested" hidden></span></div>'
        '<p class="scale"><span class="low"></span><i></i><span class="high"></span></p>'
        '<div class="text" role="listbox" tabindex="0" aria-label="Held-out text, token by token"></div>'
        '<p class="details" role="status">&nbsp;</p>'
        f'<script type="application/json">{_json(asdict(heat_map))}</script></div>'
    )


def _sample(sample: Sample) -> str:
    head = f"<h3>{escape(sample.variant)}</h3>"
    if sample.problem:
        return f'{head}\n<p class="gap">No sample: {escape(sample.problem)}</p>'
    prompt, answer = escape(sample.prompt), escape(sample.full_text.removeprefix(sample.prompt))
    return f'{head}\n<pre><span class="prompt">{prompt}</span>{answer}</pre>'
