"""Speed against quality, and time by sequence length: measurements of one machine."""

from __future__ import annotations

import math
from collections.abc import Iterable

from recurlm.report.charts import speed
from recurlm.report.frames import Row, read_frame
from recurlm.report.results import JsonObject, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import Column, Table, decimals, rows_of


def against_quality(results: Results) -> Section:
    names = list(results.params.variants)
    charts = speed.against_quality(bundles(results), names) + speed.training_against_quality(_trained(results), names)
    untimed = [result.name for result in results.variants if not any(bundle.timings for bundle in result.bundles)]
    return Section(
        "Speed against quality",
        (
            "Each point is an exported bundle, in fp32, int8 or int4: its loss on the test split, by onnxruntime, and "
            "its speed on this machine at batch size 1.",
        ),
        charts=charts,
        gaps=tuple(f"{name}: this machine has no timings of this very bundle" for name in untimed),
        sources=(
            "data/timings/generate-<variant>.json",
            "data/timings/train-<variant>.json",
            "data/metrics/verification/<variant>.json",
            "data/metrics/<variant>.json",
        ),
    )


def bundles(results: Results) -> list[Row]:
    """(Pseudo-)bits per byte on the test split and tokens/s of each bundle for which both were measured."""
    rows = []
    for result in results.variants:
        test = (result.metrics or {}).get("test") or {}
        for order, bundle in enumerate(result.bundles):
            rate = (bundle.timings or {}).get(result.objective.rate)
            nats = (bundle.verification or {}).get("scorer_nats_per_token")
            if rate is None or nats is None or not test.get("bytes"):
                continue
            bits = nats * test["tokens"] / test["bytes"] / math.log(2)
            row = {"variant": result.name, "objective": result.objective.name, "precision": bundle.precision}
            rows.append(row | {"order": order, "speed": float(rate), "bits": bits})
    return rows


def _trained(results: Results) -> list[Row]:
    rows = []
    for result in results.variants:
        bits = ((result.metrics or {}).get("test") or {}).get("bits_per_byte")
        if result.training_timings and bits is not None:  # a cloze model has pseudo_bits_per_byte alone
            minutes = result.training_timings["seconds"] / 60
            rows.append({"variant": result.name, "minutes": minutes, "bits": bits})
    return rows


def by_length(results: Results) -> Section:
    timed = read_frame(results, "timings", _lengths)
    growth = read_frame(results, "timings", _growth)
    return Section(
        "Speed by length",
        (
            "A recurrent network does the same work for each token, so time is linear in length: on log-log axes a "
            "line of slope 1. A slope below 1 shows a fixed cost per call.",
        ),
        charts=speed.by_length(timed.rows, list(results.params.variants)),
        tables=(("Slope of log seconds over log length", _growth_table(list(growth.rows))),) if growth.rows else (),
        gaps=timed.gaps,
        sources=("data/timings/length-<variant>.json",),
    )


def _lengths(_: Result, timings: JsonObject) -> Iterable[Row]:
    for work, key in (("training", "training_step"), ("generation", "generation")):
        for row in timings[key]:
            yield {"work": work, "tokens": row["tokens"], "seconds": float(row["seconds"])}


def _growth(_: Result, timings: JsonObject) -> Iterable[Row]:
    device = f"{timings['device']}, {timings['precision_of_training']}"
    yield {"training": timings["training_growth"], "generation": timings["generation_growth"], "device": device}


def _growth_table(rows: list[Row]) -> Table:
    return rows_of(
        "variant",
        [(row["variant"], row) for row in rows],
        (
            Column("training step", lambda row: row["training"], decimals(2)),
            Column("generation", lambda row: row["generation"], decimals(2)),
            Column("device, precision of training", lambda row: row["device"], str),
        ),
    )
