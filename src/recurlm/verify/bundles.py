"""Verify a variant's graphs and write its bundles; and the row of its metrics.

The precisions are verified in parallel, each in a process with one thread: most of a verification reads token by token,
which a second thread does not speed up, and with one the results are the same whatever the number of cores.
"""

from __future__ import annotations

import json
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import onnx
import torch
from tqdm import tqdm

from recurlm import model
from recurlm.config import Evaluate, Export, Params, Precision, Verify
from recurlm.export.bundle import describe, sampling_defaults, write_bundle
from recurlm.export.quantize import ACTIVATIONS, count_products
from recurlm.model import LanguageModel
from recurlm.objective import OBJECTIVES, objective_of
from recurlm.runtime.bundle import Description
from recurlm.runtime.tokenizer import Vocabulary
from recurlm.stage import end_with_parent
from recurlm.storage import read_json, sha256_of
from recurlm.tokens.files import TokenFile, open_tokens
from recurlm.tokens.special import special_ids
from recurlm.tokens.tokenizer import load_tokenizer
from recurlm.verify.agreement import verify
from recurlm.verify.checks import VerificationError
from recurlm.verify.length import generation_speed


def verify_variant(name: str, params: Params, data: Path, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Verify the graphs in `data` in every precision, and write their bundles into `folder`.

    Returns:
        By precision: the results of the verification, and timings of this machine.
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
    """
    context = get_context("spawn")  # a fork of a process in which torch has threads may hang
    check = partial(_verify_precision, data, variant, metrics, settings, scoring)
    # As many processes as there are precisions, on however few processors: so they all end at about the same time.
    with ProcessPoolExecutor(len(precisions), context, initializer=_begin, initargs=(context.RLock(),)) as pool:
        return dict(zip(precisions, pool.map(check, precisions, range(len(precisions))), strict=True))


def _begin(lock: Any) -> None:
    end_with_parent()
    tqdm.set_lock(lock)  # the progress bars share a terminal
    torch.set_num_threads(1)


def _verify_precision(
    data: Path,
    variant: str,
    metrics: dict[str, Any],
    settings: Verify,
    scoring: Evaluate,
    precision: Precision,
    line: int,
) -> dict[str, Any]:
    trained = model.load(data / "models" / variant)
    test = open_tokens(data / "tokens", "test")
    return verify(variant, trained, data / "graphs" / variant / precision, test, metrics, settings, scoring, line)


def check_bundle(
    folder: Path,
    variant: str,
    precision: Precision,
    model: LanguageModel,
    held_out: TokenFile,
    tokenizer: Path,
    settings: Export,
    facts: dict[str, Any],
) -> None:
    """Compare a bundle with all that it was made from; the graphs themselves are `verify`'s.

    Args:
        tokenizer: tokenizer.json of data/tokens.
        facts: what bundle.json tells beyond that: parameters, metrics, verification.

    Raises:
        VerificationError: something is said that is not so.
        InputError: the runtime would refuse the bundle.
    """
    manifest = held_out.manifest
    trained = load_tokenizer(tokenizer, manifest["tokenizer_sha256"])
    if (folder / "tokenizer.json").read_bytes() != tokenizer.read_bytes():
        raise VerificationError("tokenizer.json has other bytes than that of data/tokens")
    expected = describe(variant, precision, model, manifest, settings) | facts
    expected |= {"special": special_ids(trained), "sampling_defaults": sampling_defaults(expected["objective"])}
    expected["products"] = products_of(folder, expected)
    same_description(read_json(folder / "bundle.json"), expected)
    description = Description.read(folder)
    description.check_files()
    names = {"tokenizer.json", *objective_of(model).graphs}
    if set(description.files) != names:
        raise VerificationError(f"bundle.json names {sorted(description.files)}, and the bundle is {sorted(names)}")
    Vocabulary.load(folder / "tokenizer.json", description.tokenizer_kind, description.special, description.vocab_size)


def same_description(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare bundle.json, key by key, with what it must say."""
    for key, value in expected.items():
        shown, wanted = json.dumps(found.get(key)), json.dumps(value)  # with their keys in order, as states have one
        if key not in found or shown != wanted:
            raise VerificationError(f"bundle.json: '{key}' is {shown[:80]}, and should be {wanted[:80]}")


def products_of(folder: Path, expected: dict[str, Any]) -> dict[str, int]:
    """The products that are in the graphs, which must say of themselves what the description says."""
    wanted = {key: expected[key] for key in ("variant", "tokenizer_sha256")}
    wanted["states"] = json.dumps(list(expected["state_spec"]))
    products: Counter[str] = Counter()
    for path in sorted(folder.glob("*.onnx")):
        proto = onnx.load(path)
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        if metadata != wanted:
            raise VerificationError(f"{path.name} says that it is {metadata}, and should say {wanted}")
        products.update(count_products(proto.graph))
    counted = {kind: count for kind, count in products.items() if count}
    if unexpected := counted.keys() - {expected["precision"], ACTIVATIONS}:
        raise VerificationError(f"the graphs have products in {', '.join(sorted(unexpected))}")
    return counted


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
