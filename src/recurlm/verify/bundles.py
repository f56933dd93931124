"""Verify a variant's graphs and write its bundles; and the row of its metrics.

The precisions are verified in parallel, each in a process with one thread: most of a verification reads token by token,
which a second thread does not speed up, and with one the results are the same whatever the number of cores.
"""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from recurlm import model
from recurlm.config import Evaluate, Params, Precision, Verify
from recurlm.export.bundle import write_bundle
from recurlm.objective import OBJECTIVES, objective_of
from recurlm.stage import end_with_parent
from recurlm.storage import read_json, sha256_of
from recurlm.tokens.files import open_tokens
from recurlm.verify.agreement import verify
from recurlm.verify.length import generation_speed
from recurlm.verify.shipped import check_bundle


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
            **generation_speed(graphs, objective_of(trained)),
        }
    return results, timings


def verify_all(
    data: Path,
    variant: str,
    precisions: tuple[Precision, ...],
    metrics: dict[str, Any],
    settings: Verify,
    scoring: Evaluate,
) -> dict[Precision, dict[str, Any]]:
    """`verify` for the graphs of each precision, on the test split.

    Args:
        data: the folder that holds models/, tokens/ and graphs/.
        metrics: of the evaluate stage, of this model on the test split, with the settings `scoring`.

    Raises:
        VerificationError: something differs by more than float error.
    """
    context = get_context("spawn")  # a fork of a process in which torch has threads may hang
    # As many as there are precisions, on however few processors: so they all end at about the same time.
    workers = max(1, len(precisions))
    with ProcessPoolExecutor(workers, context, initializer=_begin, initargs=(context.RLock(),)) as pool:
        results = [
            pool.submit(_verify_precision, data, variant, precision, metrics, settings, scoring, line)
            for line, precision in enumerate(precisions)
        ]
        try:
            return {
                precision: verification.result() for precision, verification in zip(precisions, results, strict=True)
            }
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _begin(lock: Any) -> None:
    end_with_parent()
    tqdm.set_lock(lock)  # the progress bars share a terminal
    torch.set_num_threads(1)


def _verify_precision(
    data: Path,
    variant: str,
    precision: Precision,
    metrics: dict[str, Any],
    settings: Verify,
    scoring: Evaluate,
    line: int,
) -> dict[str, Any]:
    trained = model.load(data / "models" / variant)
    test = open_tokens(data / "tokens", "test")
    return verify(variant, trained, data / "graphs" / variant / precision, test, metrics, settings, scoring, line)


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
