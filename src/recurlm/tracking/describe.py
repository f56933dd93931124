"""What a run says of a result, as plain names and values: parameters, series, scores and tags."""

from __future__ import annotations

import math
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from recurlm.report import fingerprint
from recurlm.report.palette import COLOURS
from recurlm.report.results import Result, Results
from recurlm.tracking.store import KEY


def params(result: Result) -> dict[str, str]:
    """The variant's own block under bare names, so that variants stand in one column of MLflow's table."""
    return {name: str(value) for name, value in flat({**result.model_config, **result.settings})}


def shared_params(result: Result) -> dict[str, str]:
    """Those that all variants of a pipeline have: the text, the tokens and the recipe."""
    return {name: str(value) for name, value in flat(result.settings)}


def pipeline_name(results: Results, result: Result) -> str:
    """A pipeline's run by the tokens that its models read and how often: `pipeline, bpe 2048, 1 epoch`."""
    tokens, epochs = results.tokens or {}, result.settings["train"]["epochs"]
    read = f"{tokens.get('kind')} {tokens.get('vocab_size')}"
    return f"pipeline, {read}, {epochs:g} epoch{'' if epochs == 1 else 's'}"


def note(result: Result) -> str:
    """What stands at the top of a run's page: the bundles, their sizes and what they cost."""
    rows = ["| bundle | size | perplexity against PyTorch | tokens/s |", "|:--|--:|--:|--:|"]
    for one in result.bundles:
        proof, speed = bundle.verification or {}, one.generation or {}
        rate = speed.get("tokens_per_second") or speed.get("filled_per_second")
        loss = f"{proof['perplexity_increase']:+.2%}" if "perplexity_increase" in proof else "the same"
        shown = f"{rate:,.0f}" if rate else "—"
        rows.append(f"| {one.precision} | {proof.get('bundle_bytes', 0) / 1e6:.1f} MB | {loss} | {shown} |")
    return "\n".join(rows)


def files(root: Path, result: Result) -> Iterator[tuple[str, Path]]:
    """(folder, file) of the small files that lie beside a run; the bundles lie in its models."""
    yield "", root / "data/models" / result.name / "curve.csv"
    for one in result.bundles:
        yield f"bundles/{one.precision}", one.folder / "bundle.json"
    sample = root / fingerprint.FOLDER / "samples" / f"{result.name}.txt"
    if sample.is_file():
        yield "sample", sample
    drawn = root / fingerprint.FOLDER / ("curves.svg" if result.causal else "curves-cloze.svg")
    if drawn.is_file():
        yield "plots", drawn


def series(result: Result) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) along the learning curve; a cloze model's losses are named apart."""
    pseudo = "" if result.causal else "pseudo_"
    for point in result.curve:
        named = {
            f"{pseudo}train_loss": point.train_loss,
            f"{pseudo}validation_loss": point.validation_loss,
            f"{pseudo}validation_perplexity": None
            if point.validation_loss is None
            else math.exp(point.validation_loss),
            "learning_rate": point.learning_rate,
            "training_tokens": float(point.tokens),
        }
        yield from ((name, point.step, value) for name, value in named.items() if value is not None)


def scores(result: Result) -> dict[str, float]:
    """The final numbers: both splits, the best of the curve, the proof, the bundle, and this machine's measurements."""
    found: dict[str, float | None] = dict(_best(result))
    metrics = result.metrics or {}
    found |= {f"{split}_{name}": value for split in ("validation", "test") for name, value in flat(metrics[split])}
    for one in result.bundles:
        prefix = "proof_" if one is result.bundles[0] else f"proof_{one.precision}_"
        found |= {f"{prefix}{name}": value for name, value in flat(bundle.verification or {}) if name != "bundle_bytes"}
    for one in result.bundles[1:]:
        found[f"bundle_bytes_{one.precision}"] = (bundle.verification or {}).get("bundle_bytes")
        found[f"generation_tokens_per_second_{one.precision}"] = (one.generation or {}).get("tokens_per_second")
    found |= {
        "parameters": result.parameters,
        "bundle_bytes": result.bundle_bytes,
        "training_tokens_per_second": (result.training or {}).get("tokens_per_second"),
        "training_seconds": (result.training or {}).get("seconds"),
        "generation_tokens_per_second": (result.generation or {}).get("tokens_per_second"),
        "filling_tokens_per_second": (result.generation or {}).get("filled_per_second"),
    }
    return {name: float(value) for name, value in found.items() if isinstance(value, int | float)}


def _best(result: Result) -> Iterator[tuple[str, float]]:
    points = [(point.validation_loss, point.step) for point in result.curve if point.validation_loss is not None]
    if points:
        loss, step = min(points)
        pseudo = "" if result.causal else "pseudo_"
        yield f"best_{pseudo}validation_loss", loss
        yield f"best_{pseudo}validation_perplexity", math.exp(loss)
        yield "best_step", step


def tags(root: Path, results: Results, result: Result) -> dict[str, str]:
    """What a run can be found by, and where it comes from."""
    corpus, tokens = results.corpus or {}, results.tokens or {}
    found = {
        KEY: result.key,
        "variant": result.name,
        "corpus": corpus.get("name"),
        "corpus_revision": corpus.get("revision"),
        "tokenizer": f"{tokens['kind']} {tokens['vocab_size']}" if tokens else None,
        "tokenizer_sha256": tokens.get("tokenizer_sha256"),
        "protocol": (result.metrics or {}).get("protocol"),
        "model_sha256": (result.bundle or {}).get("model_sha256"),
        "mlflow.runColor": colour(results, result),
        "dvc_stage": f"train@{result.name}",
        "dvc_lock_model": result.locked.get(f"data/models/{result.name}"),
        "dvc_lock_bundle": result.locked.get(f"data/onnx/{result.name}"),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
    }
    return origin(root) | {name: str(value) for name, value in found.items() if value}


def colour(results: Results, result: Result) -> str:
    """The variant's colour on the report's page, so that both show it alike."""
    return COLOURS[[each.name for each in results.variants].index(result.name) % len(COLOURS)]


def origin(root: Path) -> dict[str, str]:
    """The commit that a result was made at, and what differed from it."""
    found = {"git_commit": _git(root, "rev-parse", "HEAD"), "git_changed": _uncommitted(root)}
    return {name: value for name, value in found.items() if value}


def _uncommitted(root: Path) -> str:
    """The files that differ from the commit, apart from those that a repro writes."""
    changed = _git(root, "status", "--porcelain", "--", ".", ":!data", ":!dvc.lock").splitlines()
    return " ".join(line[3:] for line in changed)[:1000]


def _git(root: Path, *arguments: str) -> str:
    """What git says; nothing where there is no git or no repository."""
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.rstrip()
    except (OSError, subprocess.CalledProcessError):
        return ""


def flat(tree: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Nested names joined by dots."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
