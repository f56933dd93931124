"""Speed against quality, and speed by length: measurements of one machine."""

from __future__ import annotations

import math
from collections.abc import Iterable

from recurlm.report.charts import speed
from recurlm.report.found import Row, gather
from recurlm.report.results import Numbers, Result, Results
from recurlm.report.section import Section
from recurlm.report.tables import Column, Table, decimals, rows_of


def against_quality(results: Results) -> Section:
    names = list(results.params.variants)
    charts = speed.against_quality(bundles(results), names) + speed.training_against_quality(_trained(results), names)
    untimed = [result.name for result in results.variants if not any(one.generation for one in result.shipped)]
    return Section(
        "Speed against quality",
        (
            "Each point is a bundle that ships, in fp32, int8 and int4; the loss of each was measured with onnxruntime "
            "on the test split, the speed on this machine, one text at a time.",
        ),
        charts=charts,
        gaps=tuple(f"{name}: this machine has no timings of this very bundle" for name in untimed),
        sources=(
            "data/timings/generate-<variant>.json",
            "data/timings/train-<variant>.json",
            "data/metrics/proof/<variant>.json",
            "data/metrics/<variant>.json",
        ),
    )


def bundles(results: Results) -> list[Row]:
    """Bits per byte on test and tokens a second of each bundle, where both were measured."""
    rows = []
    for result in results.variants:
        test = (result.metrics or {}).get("test") or {}
        for place, one in enumerate(result.shipped):
            timed = one.generation or {}
            rate = timed.get("tokens_per_second") if result.causal else timed.get("filled_per_second")
            nats = (one.proof or {}).get("scorer_nats_per_token")
            if rate is None or nats is None or not test.get("bytes"):
                continue
            bits = nats * test["tokens"] / test["bytes"] / math.log(2)
            row = {"variant": result.name, "causal": result.causal, "precision": one.precision, "place": place}
            rows.append(row | {"speed": float(rate), "bits": bits})
    return rows


def _trained(results: Results) -> list[Row]:
    rows = []
    for result in results.variants:
        bits = ((result.metrics or {}).get("test") or {}).get("bits_per_byte")
        if result.causal and result.training and bits is not None:
            minutes = result.training["seconds"] / 60
            rows.append({"variant": result.name, "causal": True, "minutes": minutes, "bits": bits})
    return rows


def by_length(results: Results) -> Section:
    found, growth = gather(results, "timings", _lengths), gather(results, "timings", _growth)
    return Section(
        "Speed by length",
        (
            "A recurrent network does the same work for each token, so that time should grow linearly: on these "
            "logarithmic scales a line of slope 1. A slope below 1 means that a call has costs that do not grow.",
        ),
        charts=speed.by_length(found.rows, list(results.params.variants)),
        tables=(("Slope of log seconds over log length", _growth_table(list(growth.rows))),) if growth.rows else (),
        gaps=found.gaps,
        sources=("data/timings/diagnose-<variant>.json",),
    )


def _lengths(_: Result, found: Numbers) -> Iterable[Row]:
    for work, key in (("training", "training_step"), ("generation", "generation")):
        for row in found[key]:
            yield {"work": work, "tokens": row["tokens"], "seconds": float(row["seconds"])}


def _growth(_: Result, found: Numbers) -> Iterable[Row]:
    device = f"{found['device']}, {found['precision_of_training']}"
    yield {"training": found["training_growth"], "generation": found["generation_growth"], "device": device}


def _growth_table(rows: list[Row]) -> Table:
    return rows_of(
        "variant",
        [(row["variant"], row) for row in rows],
        (
            Column("a training step", lambda row: row["training"], decimals(2)),
            Column("generation", lambda row: row["generation"], decimals(2)),
            Column("device, precision of training", lambda row: row["device"], str),
        ),
    )
