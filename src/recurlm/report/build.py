"""Build the report from the outputs of all stages, and write data/report as a whole."""

from __future__ import annotations

from pathlib import Path

from recurlm import config
from recurlm.report import dvc_outputs, heat_map, page, samples
from recurlm.report.drawing import svg
from recurlm.report.metrics import read_metrics
from recurlm.report.results import load_results
from recurlm.report.samples import Sample
from recurlm.storage import whole_folder

FOLDER = Path("data/report")


def build(root: Path) -> None:
    """Write the report of the results under `root`."""
    results = load_results(root, config.load(root / "params.yaml"))
    metrics = read_metrics(results)
    drawn = samples.draw(results)
    tokens = heat_map.read(root, results)
    content, lead = page.context(results, metrics, drawn, tokens), page.lead(results)
    with whole_folder(root / FOLDER) as folder:
        (folder / "report.md").write_text(page.as_markdown(lead, content), encoding="utf-8")
        (folder / "index.html").write_text(page.as_html(lead, content), encoding="utf-8")
        for chart in (chart for section in content["charts"].values() for chart in section if chart.file):
            (folder / chart.file).write_text(svg(chart), encoding="utf-8")
        metrics.table.to_csv(folder / "metrics.csv", index=False, lineterminator="\n")
        dvc_outputs.write(folder, results, metrics)
        heat_map.write(folder, tokens)
        _write_samples(folder / "samples", drawn)


def _write_samples(folder: Path, drawn: tuple[Sample, ...]) -> None:
    folder.mkdir()
    for sample in drawn:
        if not sample.problem:
            (folder / f"{sample.variant}.txt").write_text(f"{sample.full_text}\n", encoding="utf-8")
