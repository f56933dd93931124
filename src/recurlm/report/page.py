"""The report as one HTML file without network requests, and as Markdown: two layouts of one template."""

from __future__ import annotations

import json
import re
from dataclasses import asdict
from itertools import starmap
from pathlib import Path
from typing import Any

import vl_convert
from jinja2 import Environment, FileSystemLoader, StrictUndefined, Undefined
from markupsafe import Markup

from recurlm.report import charts, claims, tables
from recurlm.report.drawing import INK, MARKS, VEGA_LITE, Chart, Palette, config
from recurlm.report.heat_map import FILE as HEAT_MAP
from recurlm.report.heat_map import HeatMap
from recurlm.report.metrics import Metrics
from recurlm.report.results import Result, Results
from recurlm.report.samples import Sample
from recurlm.report.tables import NONE, Column, escape_markdown, grid, markdown, show

TITLE = "Recurrent language models, compared"
TEMPLATES = Path(__file__).with_name("templates")


def environment(html: bool) -> Environment:
    """Jinja2 with the project's filters; HTML is escaped by itself, Markdown by the filter `md`."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    made.filters |= {
        "anchor": lambda title: re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-"),
        "fenced": fenced,
        "json": in_json,
        "markdown": markdown,
        "md": escape_markdown,
        "spread": claims.spread,
        "show": lambda value, form=",": show(None if isinstance(value, Undefined) else value, form),
    }
    made.globals["table"] = lambda head, frame, columns, *caption: grid(head, frame, starmap(Column, columns), *caption)
    return made


def context(results: Results, metrics: Metrics, samples: tuple[Sample, ...], heat_map: HeatMap) -> dict[str, Any]:
    """What report.j2 is filled with."""
    palette = palette_of(results)
    diagnosed = [result.name for result in results.variants if "diagnostics" in result.diagnosis.files]
    gated = set(metrics.table.loc[metrics.table["metric"] == "fraction_closed", "variant"])
    sampled = set(metrics.rows("temperature")["variant"])
    samples_of = {result.name: result.diagnosis.files.get("samples", {}) for result in results.variants}
    texts = {name: samples["temperatures"] for name, samples in samples_of.items() if name in sampled}
    return {
        "params": results.params,
        "margins": {"farther": claims.FARTHER, "faster": claims.FASTER, "lower": claims.LOWER},
        "floor": charts.FLOOR,
        "comparison": tables.comparison(results, metrics),
        "validation": tables.validation(results, metrics),
        "claims": claims.table(results, metrics),
        "frames": tables.frames(results, metrics),
        "charts": draw(results, metrics, palette),
        "gaps": {**metrics.gaps, **_gaps(results, metrics)},
        "gateless": [name for name in diagnosed if name not in gated],
        **legend(palette),
        "samples": samples,
        "heat_map": heat_map,
        "heat_map_file": HEAT_MAP,
        "texts": texts,
        "most_texts": max((len(row["texts"]) for each in texts.values() for row in each), default=0),
    }


def palette_of(results: Results) -> Palette:
    """The colours of the variants, cloze models marked."""
    cloze = tuple(result.name for result in results.variants if result.objective.pseudo)
    return Palette(tuple(results.params.variants), cloze)


def legend(palette: Palette) -> dict[str, Any]:
    """What html.j2 knows of the variants."""
    marks = {name: MARKS[shape] for name, shape in palette.shapes.items()}
    return {"colours": palette.colours, "marks": marks, "cloze": palette.cloze, "none_text": NONE}


def draw(results: Results, metrics: Metrics, palette: Palette) -> dict[str, tuple[Chart, ...]]:
    """The charts, by the section that shows them."""
    tolerance = results.params.diagnose.context.tolerance_nats
    bundles, times = tables.bundles(results), tables.training_times(metrics)
    drawn = {
        "scores": charts.scores(metrics, palette),
        "curves": charts.learning_curves(metrics, palette),
        "perplexities": charts.perplexities(metrics, palette),
        "losses": (*charts.loss_by_position(metrics, palette), *charts.loss_by_frequency(metrics, palette)),
        "gradients": charts.gradient_flow(metrics, palette),
        "context": charts.context(metrics, palette, tolerance),
        "gates": charts.gates(metrics, palette),
        "short_runs": charts.short_runs(metrics, palette),
        "speed": (*charts.quality_against_speed(bundles, palette), *charts.quality_against_training(times, palette)),
        "lengths": charts.time_by_length(metrics, palette),
        "temperature": charts.text_by_temperature(metrics, palette),
    }
    return {section: tuple(figures) for section, figures in drawn.items()}


def _gaps(results: Results, metrics: Metrics) -> dict[str, tuple[str, ...]]:
    """What the stages but diagnose have not made, one line a variant."""
    failed = tuple(metrics.gaps["overfitting"])
    short = [each for each in results.variants if not any(line.startswith(each.name) for line in failed)]
    untrained = [result.name for result in results.variants if len(result.curve) and not result.training_timings]
    untimed = [result.name for result in results.variants if not any(bundle.timings for bundle in result.bundles)]
    stages = {result.name: _missing(result) for result in results.variants}
    return {
        "stages": tuple(f"{name}: {', '.join(missing)}" for name, missing in stages.items() if missing),
        "training": tuple(f"{name}: this machine has no timings of this very model" for name in untrained),
        "bundles": tuple(f"{name}: this machine has no timings of this very bundle" for name in untimed),
        "short_runs": tuple(
            f"{result.name} with dropout {run['dropout']:g}: {run['problem']}"
            for result in short
            for run in (result.diagnosis.files["diagnostics"]["overfitting"]["short_runs"] or {}).get("runs", ())
            if run.get("problem")
        ),
    }


def _missing(result: Result) -> list[str]:
    gaps = {
        "not trained yet": result.model,
        "not evaluated yet": result.metrics,
        "no bundle yet": result.bundle.description,
        "not verified yet": result.bundle.verification,
    }
    named = [gap for gap, output in gaps.items() if not output]
    if result.stale and result.made:
        named.append(f"stale, and left out of MLflow: {result.stale}")
    elif result.diagnosis.stale and result.diagnosis.files:
        named.append(f"its diagnostics are stale: {result.diagnosis.stale}")
    return named


def lead(results: Results) -> str:
    """The line under the title: corpus and tokenizer."""
    corpus, tokens = results.corpus, results.tokens
    facts = [
        str(corpus.get("name") or "corpus not fetched yet"),
        f"licence {corpus['licence']}" if corpus.get("licence") else "",
        f"revision {corpus['revision']}" if corpus.get("revision") else "",
        f"{tokens['kind']} tokens, vocabulary {tokens['vocab_size']:,}" if tokens else "",
    ]
    return " · ".join(fact for fact in facts if fact)


def as_markdown(lead: str, content: dict[str, Any]) -> str:
    """The page as Markdown."""
    made = environment(html=False)
    body = made.get_template("report.j2").render(content, layout="markdown.j2")
    return f"# {TITLE}\n\n{escape_markdown(lead)}\n\n{body}"


def as_html(lead: str, content: dict[str, Any], template: str = "report.j2") -> str:
    """The whole file, with Vega inside where there is a chart.

    Args:
        template: the sections; `content` has `charts`, of each section that has some, and what `legend` gives.
    """
    made = environment(html=True)
    body = made.get_template(template).render(content, layout="html.j2")
    return made.get_template("page.html.j2").render(
        title=TITLE,
        lead=lead,
        contents=[
            (anchor, Markup(title)) for anchor, title in re.findall(r'<section id="(.+?)">\s*<h2>(.+?)</h2>', body)
        ],
        body=Markup(body),
        css=Markup((TEMPLATES / "page.css").read_text(encoding="utf-8")),
        js=Markup((TEMPLATES / "page.js").read_text(encoding="utf-8")),
        vega=vega() if any(content["charts"].values()) else "",
        settings={"light": config(INK), "dark": config("#e6edf3", 0.18)},
    )


def vega() -> Markup:
    """Vega, Vega-Lite and their embedding as JavaScript that cannot close its <script> element early."""
    # Without a snippet the bundle exports its names to `window`, which the stubs do not know.
    code = vl_convert.javascript_bundle(None, vl_version=VEGA_LITE)  # type: ignore[arg-type]
    return Markup(re.sub(r"<(?=/script|!--)", r"\\x3c", code, flags=re.IGNORECASE))


def in_json(value: Any) -> Markup:
    """JSON with the characters escaped that could end or open an HTML element."""
    plain = asdict(value) if isinstance(value, HeatMap) else value
    text = json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return Markup(re.sub("[<>&\u2028\u2029]", lambda match: f"\\u{ord(match[0]):04x}", text))


def fenced(text: str) -> str:
    """The text as a code block: a fence longer than any run of backticks in it is not closed by it."""
    longest = max((len(run) for run in re.findall("`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
