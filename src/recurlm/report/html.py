"""The report as one HTML file that asks nothing of the network: for a phone, a desk, daylight and dark."""

from __future__ import annotations

from html import escape

from recurlm.report.content import TITLE, Section
from recurlm.report.samples import Sample
from recurlm.report.tables import Cell, Table

STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #59636e; --paper: #fff; --line: #d1d9e0; --shade: #f6f8fa; }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6edf3; --soft: #9198a1; --paper: #0d1117; --line: #3d444d; --shade: #151b23; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 80rem; padding: 1rem clamp(1rem, 3vw, 3rem) 4rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.2; margin: 1.5rem 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .5rem; padding-bottom: .3rem; border-bottom: 1px solid var(--line); }
h3 { font-size: 1rem; margin: 1.5rem 0 .4rem; }
p, dd { max-width: 65ch; margin: .3rem 0; }
.lead, p, dd, figcaption, .prompt { color: var(--soft); }
.scroll { overflow-x: auto; margin: .8rem 0; border: 1px solid var(--line); border-radius: 6px; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; width: 100%; }
th, td { padding: .45rem .6rem; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
th { font-weight: 500; }
thead th { min-width: 4.5rem; background: var(--shade); color: var(--soft); border-top: 0; vertical-align: bottom;
  white-space: normal; }
thead th[colspan]:not(:empty) { text-align: center; border-bottom: 1px solid var(--line); }
tr > :first-child { text-align: left; position: sticky; left: 0; background: var(--paper);
  border-right: 1px solid var(--line); }
thead tr > :first-child { background: var(--shade); }
tbody th { font-weight: 600; }
td strong { color: var(--ink); }
.charts { display: flex; flex-wrap: wrap; gap: 1.5rem; }
figure { flex: 1 1 20rem; max-width: 36rem; margin: .5rem 0; }
figure svg { width: 100%; height: auto; }
pre { margin: 0; padding: .8rem 1rem; background: var(--shade); border: 1px solid var(--line); border-radius: 6px;
  font: .9rem/1.5 ui-monospace, monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
dt { font-weight: 600; margin-top: .8rem; }
dd { margin-left: 0; }
"""


def page(lead: str, sections: tuple[Section, ...]) -> str:
    body = "\n".join(_section(section) for section in sections)
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<link rel="icon" href="data:,">
<title>{escape(TITLE)}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{escape(TITLE)}</h1>
<p class="lead">{escape(lead)}</p>
{body}
</body>
</html>
"""


def _section(section: Section) -> str:
    blocks = [f"<h2>{escape(section.title)}</h2>", *(f"<p>{escape(note)}</p>" for note in section.notes)]
    if section.table:
        blocks.append(_table(section.table, section.title))
    if section.charts:
        figures = (
            f'<figure aria-label="{escape(caption)}">{svg}<figcaption>{escape(caption)}</figcaption></figure>'
            for _, caption, svg in section.charts
        )
        blocks.append(f'<div class="charts">{"".join(figures)}</div>')
    blocks += [_sample(sample) for sample in section.samples]
    if section.terms:
        terms = (f"<dt>{escape(term)}</dt><dd>{escape(meaning)}</dd>" for term, meaning in section.terms)
        blocks.append(f"<dl>{''.join(terms)}</dl>")
    return "\n".join(blocks)


def _table(table: Table, label: str) -> str:
    groups = "".join(f'<th colspan="{span}">{escape(text)}</th>' for text, span in table.groups)
    heads = "".join(f'<th scope="col">{escape(head)}</th>' for head in table.heads)
    rows = "".join(
        f'<tr><th scope="row">{escape(row[0].text)}</th>{"".join(_cell(cell) for cell in row[1:])}</tr>\n'
        for row in table.rows
    )
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(label)}"><table>\n'
        f"<thead>{f'<tr>{groups}</tr>' if groups else ''}<tr>{heads}</tr></thead>\n"
        f"<tbody>\n{rows}</tbody>\n</table></div>"
    )


def _cell(cell: Cell) -> str:
    text = escape(cell.text)
    return f"<td><strong>{text}</strong></td>" if cell.best else f"<td>{text}</td>"


def _sample(sample: Sample) -> str:
    head = f"<h3>{escape(sample.variant)}</h3>"
    if sample.problem:
        return f"{head}\n<p>No sample: {escape(sample.problem)}</p>"
    prompt, answer = escape(sample.prompt), escape(sample.whole.removeprefix(sample.prompt))
    return f'{head}\n<pre><span class="prompt">{prompt}</span>{answer}</pre>'
