"""Learning curves of the models, and short runs that overfit on purpose."""

from __future__ import annotations

from collections.abc import Iterable

from recurlm.report.charts import learning
from recurlm.report.frames import Row, read_frame
from recurlm.report.objectives import OBJECTIVES
from recurlm.report.results import JsonObject, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import Column, count, decimals, rows_of


def curves(results: Results) -> Section:
    charts = learning.curves(results)
    untimed = [result.name for result in results.variants if result.curve and result.training_timings is None]
    return Section(
        "Learning curves",
        () if charts else ("No variant has been trained yet.",),
        charts=charts,
        gaps=tuple(f"{name}: this machine has no timings of this very model" for name in untimed),
        sources=("data/models/<variant>/curve.csv", "data/timings/train-<variant>.json", "data/report/curves.csv"),
    )


def overfitting(results: Results) -> Section:
    points = read_frame(results, "diagnostics", _points)
    runs = read_frame(results, "diagnostics", _runs)
    table = rows_of(
        "run",
        [(f"{row['variant']}, dropout {row['dropout']:g}", row) for row in runs.rows],
        (
            *_by_unit("final gap", "gap"),
            *_by_unit("lowest validation loss", "best"),
            Column("at step", lambda row: row["best_step"], count),
        ),
    )
    problems = [
        f"{row['variant']} with dropout {row['dropout']:g}: {row['problem']}" for row in runs.rows if row["problem"]
    ]
    setup = next((row["setup"] for row in runs.rows), "")
    return Section(
        "Overfitting and dropout",
        (
            "A small model of each variant, trained for many epochs on a small part of the train split, without and "
            "with dropout: where the validation loss rises while the train loss falls, the model overfits.",
            *((setup,) if setup else ()),
        ),
        charts=learning.short_runs(points.rows, list(results.params.variants)),
        tables=(("Gap between validation and train", table),) if runs.rows else (),
        gaps=(*points.gaps, *problems),
        sources=("data/metrics/diagnostics/<variant>.json",),
    )


def _by_unit(head: str, key: str) -> list[Column]:
    """One column per objective, so that nats and pseudo-nats do not share one."""

    def column(name: str, unit: str) -> Column:
        return Column(f"{head}, {unit}", lambda row: row[key] if row["objective"] == name else None, decimals(3))

    return [column(objective.name, objective.unit("nats")) for objective in OBJECTIVES]


def _points(result: Result, diagnostics: JsonObject) -> Iterable[Row]:
    for run in (diagnostics["overfitting"]["short_runs"] or {}).get("runs", ()):
        for point in run["points"]:
            for side in learning.SIDES:
                loss = float(point[result.objective.metric(f"{side}_nats_per_token")])
                yield {"dropout": float(run["dropout"]), "step": point["step"], "side": side, "loss": loss}


def _runs(result: Result, diagnostics: JsonObject) -> Iterable[Row]:
    short = diagnostics["overfitting"]["short_runs"]
    for run in (short or {}).get("runs", ()):
        yield {
            "dropout": float(run["dropout"]),
            "gap": run["gap"],
            "best": run.get(result.objective.metric("best_validation_nats_per_token")),
            "best_step": run.get("best_at_step"),
            "problem": run["problem"],
            "setup": f"{short['train_tokens']:,} tokens of train, {short['validation_tokens']:,} of validation, "
            f"{short['epochs']:g} epochs, hidden size {short['model']['hidden_size']}.",
        }
