"""Make the report: gather what the stages left, draw it, and write data/report as a whole."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from recurlm import config
from recurlm.report import coloured, content, fingerprint, for_dvc, html, markdown, samples
from recurlm.report.charts.base import svg
from recurlm.report.fingerprint import MadeFrom
from recurlm.report.results import gather
from recurlm.report.samples import Sample
from recurlm.report.wanted import wanted
from recurlm.storage import whole_folder


def build(root: Path, inputs: str) -> MadeFrom:
    """Write the pages for the results under `root`.

    Args:
        inputs: what `fingerprint.inputs_hash` says of `root` before anything is read from it.
    """
    results = gather(root, config.load(root / "params.yaml"))
    drawn = samples.draw(results)
    text = coloured.read(root, results)
    sections = content.sections(results, drawn, text)
    lead = content.lead(results)
    with whole_folder(root / fingerprint.FOLDER) as folder:
        (folder / "report.md").write_text(markdown.page(lead, sections), encoding="utf-8")
        (folder / "index.html").write_text(html.page(lead, sections, list(results.params.variants)), encoding="utf-8")
        for chart in (chart for section in sections for chart in section.charts if chart.file):
            (folder / chart.file).write_text(svg(chart), encoding="utf-8")
        for_dvc.write(folder, results)
        coloured.write(folder, text)
        _write_samples(folder / "samples", drawn)
        return fingerprint.write(folder, inputs, lambda report: asdict(wanted(results, report)))


def _write_samples(folder: Path, drawn: tuple[Sample, ...]) -> None:
    folder.mkdir()
    for sample in drawn:
        if not sample.problem:
            (folder / f"{sample.variant}.txt").write_text(f"{sample.whole}\n", encoding="utf-8")
