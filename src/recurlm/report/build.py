"""Build the report from the outputs of all stages, and write data/report as a whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from recurlm import config
from recurlm.report import dvc_outputs, fingerprint, heat_map, html, markdown, page_sections, samples
from recurlm.report.charts.base import svg
from recurlm.report.fingerprint import Fingerprint
from recurlm.report.results import load_results
from recurlm.report.samples import Sample
from recurlm.report.sync_plan import make_plan
from recurlm.storage import whole_folder


def build(root: Path, inputs: str) -> Fingerprint:
    """Write the report of the results under `root`.

    Args:
        inputs: `fingerprint.inputs_hash(root)`, computed before anything is read.
    """
    results = load_results(root, config.load(root / "params.yaml"))
    drawn = samples.draw(results)
    tokens = heat_map.read(root, results)
    sections = page_sections.sections(results, drawn, tokens)
    lead = page_sections.lead(results)
    with whole_folder(root / fingerprint.FOLDER) as folder:
        (folder / "report.md").write_text(markdown.page(lead, sections), encoding="utf-8")
        (folder / "index.html").write_text(html.page(lead, sections, list(results.params.variants)), encoding="utf-8")
        for chart in (chart for section in sections for chart in section.charts if chart.file):
            (folder / chart.file).write_text(svg(chart), encoding="utf-8")
        dvc_outputs.write(folder, results)
        heat_map.write(folder, tokens)
        _write_samples(folder / "samples", drawn)
        return fingerprint.write(folder, inputs, lambda report_hash: asdict(make_plan(results, report_hash)))


def _write_samples(folder: Path, drawn: tuple[Sample, ...]) -> None:
    folder.mkdir()
    for sample in drawn:
        if not sample.problem:
            (folder / f"{sample.variant}.txt").write_text(f"{sample.full_text}\n", encoding="utf-8")
