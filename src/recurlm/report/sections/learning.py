"""Learning curves of the models, and short runs that overfit on purpose."""

from __future__ import annotations

from collections.abc import Iterable

from recurlm.report.charts import learning
from recurlm.report.found import Row, gather
from recurlm.report.results import Numbers, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import Column, count, decimals, rows_of


def curves(results: Results) -> Section:
    charts = learning.curves(results)
    untimed = [result.name for result in results.variants if result.curve and result.training is None]
    return Section(
        "Learning curves",
        () if charts else ("No variant has been trained yet.",),
        charts=charts,
        gaps=tuple(f"{name}: this machine has no timings of this very model" for name in untimed),
        sources=("data/models/<variant>/curve.csv", "data/timings/train-<variant>.json", "data/report/curves.csv"),
    )


def overfitting(results: Results) -> Section:
    found, facts = gather(results, "diagnostics", _points), gather(results, "diagnostics", _runs)
    table = rows_of(
        "run",
        [(f"{row['variant']}, dropout {row['dropout']:g}", row) for row in facts.rows],
        (
            Column("final gap, nats", lambda row: row["gap"] if row["causal"] else None, decimals(3)),
            Column("final gap, pseudo-nats", lambda row: None if row["causal"] else row["gap"], decimals(3)),
            Column("least validation loss, nats", lambda row: row["best"] if row["causal"] else None, decimals(3)),
            Column(
                "least validation loss, pseudo-nats", lambda row: None if row["causal"] else row["best"], decimals(3)
            ),
            Column("at step", lambda row: row["at"], count),
        ),
    )
    about = [
        f"{row['variant']} with dropout {row['dropout']:g}: {row['problem']}" for row in facts.rows if row["problem"]
    ]
    setup = next((row["setup"] for row in facts.rows), "")
    return Section(
        "Overfitting and dropout",
        (
            "A small model of each kind, trained for many epochs on a little text, without and with dropout: where the "
            "validation loss turns upward while the train loss falls, the model learns its text by heart.",
            *((setup,) if setup else ()),
        ),
        charts=learning.short_runs(found.rows, list(results.params.variants)),
        tables=(("Gap between validation and train", table),) if facts.rows else (),
        gaps=(*found.gaps, *about),
        sources=("data/metrics/diagnostics/<variant>.json",),
    )


def _points(_: Result, found: Numbers) -> Iterable[Row]:
    for run in (found["overfitting"]["short_runs"] or {}).get("runs", ()):
        for point in run["points"]:
            for side in learning.SIDES:
                loss = float(point[f"{side}_nats_per_token"])
                yield {"dropout": float(run["dropout"]), "step": point["step"], "side": side, "loss": loss}


def _runs(_: Result, found: Numbers) -> Iterable[Row]:
    short = found["overfitting"]["short_runs"]
    for run in (short or {}).get("runs", ()):
        yield {
            "dropout": float(run["dropout"]),
            "gap": run["gap"],
            "best": run.get("best_validation_nats_per_token"),
            "at": run.get("best_at_step"),
            "problem": run["problem"],
            "setup": f"{short['train_tokens']:,} tokens of train, {short['validation_tokens']:,} of validation, "
            f"{short['epochs']:g} epochs, hidden size {short['model']['hidden_size']}.",
        }
