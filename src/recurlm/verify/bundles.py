"""Verify a variant's graphs and write its bundles; and the row of its metrics."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recurlm import model
from recurlm.config import Params
from recurlm.export.bundle import write_bundle
from recurlm.objective import OBJECTIVES, objective_of
from recurlm.storage import read_json, sha256_of
from recurlm.tokens.files import open_tokens
from recurlm.verify.parallel import verify_all
from recurlm.verify.shipped import check_bundle
from recurlm.verify.speed import measure


def verify_variant(name: str, params: Params, data: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Verify the graphs in `data` in every precision, and write their bundles into `folder`.

    Returns:
        By precision: the results of the verification, and timings of this machine.

    Raises:
        VerificationError: a graph is not its PyTorch model.
    """
    trained = model.load(data / "models" / name)
    metrics = read_json(data / "metrics" / f"{name}.json")
    verified = verify_all(data, name, params.export.precisions, metrics["test"], params.verify, params.evaluate)
    results: dict[str, Any] = {}
    timings: dict[str, Any] = {}
    test = open_tokens(data / "tokens", "test")
    tokenizer = data / "tokens" / "tokenizer.json"
    for precision in params.export.precisions:
        graphs, bundle = data / "graphs" / name / precision, folder / precision
        facts = facts_of(name, data, verified[precision])
        bundle.mkdir()
        write_bundle(bundle, graphs, tokenizer, facts)
        check_bundle(bundle, name, precision, trained, test, tokenizer, params.export, facts)
        size = sum(file.stat().st_size for file in bundle.iterdir())
        results[precision] = verified[precision] | {"bundle_bytes": size}
        timings[precision] = {
            "bundle_sha256": sha256_of(bundle / "bundle.json"),
            **measure(graphs, objective_of(trained)),
        }
    return results, timings


def facts_of(name: str, data: Path, verified: dict[str, Any]) -> dict[str, Any]:
    """What bundle.json tells beyond its graphs."""
    metrics = read_json(data / "metrics" / f"{name}.json")
    described = read_json(data / "models" / name / "model.json")
    facts = {
        "parameters": metrics["parameters"],
        "model_sha256": sha256_of(data / "models" / name / "model.safetensors"),
        "metrics": {"protocol": metrics["protocol"], **metrics["test"]},
        "verification": verified,
    }
    return facts | ({"init_from": described["init_from"]} if "init_from" in described else {})


def summary(name: str, data: Path, results: dict[str, Any]) -> dict[str, float | int | bool]:
    """One variant's row of `dvc metrics show`: scores of both splits, size, and whether all bundles are verified."""
    metrics = read_json(data / "metrics" / f"{name}.json")
    prefix = OBJECTIVES[metrics["objective"]].metric_prefix
    row: dict[str, float | int | bool] = {
        f"{prefix}{short}_bpb": round(metrics[split][f"{prefix}bits_per_byte"], 4)
        for short, split in (("val", "validation"), ("test", "test"))
    }
    row[f"{prefix}test_ppl"] = round(metrics["test"][f"{prefix}perplexity_per_token"], 2)
    row["parameters"] = metrics["parameters"]
    row["verified"] = all(result["verified"] is True for result in results.values())
    smallest = min(results, key=lambda precision: results[precision]["bundle_bytes"])
    row["bundle_mb"] = round(results[smallest]["bundle_bytes"] / 1e6, 2)
    return row
