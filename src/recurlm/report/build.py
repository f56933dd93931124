"""Build the report from the outputs of all stages, and write data/report as a whole: page, charts, tables, samples."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pandas as pd

from recurlm import config
from recurlm.report import charts, heat_map, page, samples
from recurlm.report.drawing import svg
from recurlm.report.metrics import ADAPTIVE, Metrics, pivoted, read_metrics
from recurlm.report.results import Results, load_results
from recurlm.storage import to_json, whole_folder

FOLDER = Path("data/report")
HEAD = ["variant", "objective"]


def build(root: Path) -> None:
    """Write the report of the results under `root`."""
    results = load_results(root, config.load(root / "params.yaml"))
    metrics = read_metrics(results)
    drawn, tokens = tuple(samples.draw(results)), heat_map.read(root, results)
    content, lead = page.context(results, metrics, drawn, tokens), page.lead(results)
    texts = {
        "report.md": page.as_markdown(lead, content),
        "index.html": page.as_html(lead, content),
        "summary.json": to_json(summary(results, metrics)),
        heat_map.FILE: to_json(asdict(tokens)),
        **{chart.file: svg(chart) for section in content["charts"].values() for chart in section if chart.file},
        **{f"samples/{each.variant}.txt": f"{each.full_text}\n" for each in drawn if not each.problem},
    }
    tables = {"metrics.csv": metrics.table, **_dvc_tables(results, metrics)}
    with whole_folder(root / FOLDER) as folder:
        (folder / "samples").mkdir()
        for name, text in texts.items():
            (folder / name).write_text(text, encoding="utf-8")
        for name, table in tables.items():
            table.to_csv(folder / name, index=False, lineterminator="\n")


def _dvc_tables(results: Results, metrics: Metrics) -> dict[str, pd.DataFrame]:
    """File → the long-format table that `dvc plots` draws."""
    # The rows of the logs that have a validation loss; of a model without a log, the evaluations.
    curves = [
        (each.log if len(each.log) else each.curve).assign(variant=each.name, objective=each.objective.name)
        for each in results.variants
    ]
    losses = [*HEAD, "step", "tokens", "train_loss", "validation_loss"]
    norms = metrics.rows(charts.MOMENTS, ("state_mean", "input_mean"))
    names = {"protocol": "moment", "at": "k", "state_mean": "state_norm", "input_mean": "input_norm"}
    flow = pivoted(norms, [*HEAD, "protocol", "at"]).reindex(columns=["state_mean", "input_mean"])
    flow = flow.reset_index().rename(columns=names)
    cut = metrics.rows("cut", "increase").rename(columns={"at": "k", "value": "increase"})
    return {
        "curves.csv": pd.concat(curves).dropna(subset="validation_loss")[losses],
        "gradient_flow.csv": flow.astype({"k": int}),
        "effective_context.csv": cut[[*HEAD, "k", "increase", "low", "high"]].astype({"k": int}),
    }


def summary(results: Results, metrics: Metrics) -> dict[str, dict[str, Any]]:
    """Variant → the headline numbers of its diagnostics; no timings, which differ between machines."""
    numbers: dict[str, dict[str, Any]] = {}
    for result in results.variants:
        metric, name = result.objective.metric, result.name
        values = {
            metric(f"perplexity_{protocol}"): metrics.value(name, metric("perplexity_per_token"), protocol)
            for protocol in ("cold_windows", *ADAPTIVE)
        }
        for key in ("effective_context_tokens", "gradient_vanished_at_after_training"):
            tokens = metrics.value(name, key, "lesson")
            values[key.removesuffix("_after_training")] = None if tokens is None else int(tokens)
        for protocol, gap in metrics.short_runs(name, "gap").items():
            values[f"gap_{'without' if protocol == 'dropout 0' else 'with'}_dropout"] = gap
        for row in metrics.rows("temperature", "real_word_fraction", variant=name, at=1.0).itertuples():
            values["real_word_fraction"] = row.value
        numbers[name] = {key: value for key, value in values.items() if value is not None}
    return numbers
