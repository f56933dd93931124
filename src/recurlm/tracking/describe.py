"""The times, parameters, metrics, datasets, tags and artifacts of a run, as plain names and values."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from recurlm.report.drawing import COLOURS
from recurlm.report.lock import flat
from recurlm.report.results import Result, Results
from recurlm.tracking.live import TRAINING, metrics_of
from recurlm.tracking.store import KEY
from recurlm.training.journal import read_journal

# Tag of a run: that of its pipeline. Not MLflow's own, which would hide the variants under a collapsed row.
PARENT = "recurlm.pipeline_run"
REPORT = Path("data/report")
SPLITS = {"train": "training", "validation": "validation", "test": "testing"}  # split → MLflow's context
DIGEST = 32  # hex digits of a sha256 that fit MLflow's column


@dataclass(frozen=True)
class Training:
    """What is known of a model's training: by its journal, on the machine that trained it."""

    id: str  # empty where it was trained elsewhere
    start: int  # ms since 1970
    end: int
    metrics: tuple[Metric, ...]

    @classmethod
    def of(cls, root: Path, result: Result) -> Training:
        """The training of this very model; without its journal, its learning curve, with the present time."""
        lines = read_journal(root / "data/timings" / f"train-{result.name}.jsonl")
        if lines and result.training_timings.get("run_key") == lines[0]["key"]:
            metrics = tuple(Metric(*each) for each in metrics_of(lines[1:]))
            return cls(lines[0]["id"], lines[0]["time"], lines[-1]["time"], metrics)
        now = int(time.time() * 1000)
        return cls("", now, now, tuple(Metric(name, value, now, step) for name, step, value in _curve(result)))


def _curve(result: Result) -> Iterator[tuple[str, int, float]]:
    """(name, step, value) of the metrics along the learning curve."""
    metric = result.objective.metric
    for point in result.curve.itertuples():
        named = {
            metric("train_loss"): point.train_loss,
            metric("validation_loss"): point.validation_loss,
            metric("validation_perplexity"): math.exp(point.validation_loss),
            "learning_rate": point.learning_rate,
            "training_tokens": float(point.tokens),
        }
        yield from ((name, point.step, value) for name, value in named.items())


def datasets(results: Results) -> dict[str, DatasetInput]:
    """Split → the corpus split behind a result as an MLflow dataset, with its sha256 as digest."""
    corpus = results.corpus
    source = {key: corpus.get(key) for key in ("source", "name", "revision", "licence")}
    return {
        split: DatasetInput(
            Dataset(
                name=f"{corpus['name']}, {split}",
                digest=facts["sha256"][:DIGEST],
                source_type=str(corpus.get("source")),
                source=json.dumps(source),
                profile=json.dumps({key: value for key, value in facts.items() if key != "names"}),
            ),
            [InputTag("mlflow.data.context", SPLITS[split])],
        )
        for split, facts in corpus.get("splits", {}).items()
    }


def params(*trees: dict[str, Any]) -> list[Param]:
    """The leaves of settings under their names, joined by dots."""
    return [Param(name, str(value)) for tree in trees for name, value in flat(tree)]


def pipeline_name(results: Results, result: Result) -> str:
    """The name of a pipeline's run: `pipeline, bpe 2048, 1 epoch`."""
    tokens, epochs = results.tokens, result.settings["train"]["data"]["epochs"]
    tokenizer = f"{tokens.get('kind')} {tokens.get('vocab_size')}"
    return f"pipeline, {tokenizer}, {epochs:g} epoch{'' if epochs == 1 else 's'}"


def note(result: Result) -> str:
    """The description on a run's page: size, perplexity increase and speed of each bundle."""
    rows = ["| bundle | size | perplexity increase over PyTorch | tokens/s |", "|:--|--:|--:|--:|"]
    for bundle in result.bundles:
        verification, rate = bundle.verification, bundle.timings.get(result.objective.rate)
        increase = f"{verification['perplexity_increase']:+.2%}" if "perplexity_increase" in verification else "none"
        speed = f"{rate:,.0f}" if rate else "—"
        size = f"{verification.get('bundle_bytes', 0) / 1e6:.1f} MB"
        rows.append(f"| {bundle.precision} | {size} | {increase} | {speed} |")
    return "\n".join(rows)


def files(root: Path, result: Result) -> Iterator[tuple[str, Path]]:
    """(artifact folder, file) of the run's small files; the bundles are in its logged models."""
    yield "", root / "data/models" / result.name / "curve.csv"
    for bundle in result.bundles:
        yield f"bundles/{bundle.precision}", bundle.folder / "bundle.json"
    sample = root / REPORT / "samples" / f"{result.name}.txt"
    if sample.is_file():
        yield "sample", sample
    curves = root / REPORT / f"curves{'-cloze' if result.objective.pseudo else ''}.svg"
    if curves.is_file():
        yield "plots", curves


def final_metrics(result: Result, end: int, model: str, texts: dict[str, DatasetInput]) -> list[Metric]:
    """The scores on both splits, the best of the curve, the verification, the sizes and the timings.

    Args:
        end: when they are logged as of, in ms since 1970.
        model: the id of the logged model that they are of.
        texts: split → the dataset that a score is on.
    """
    metrics = []
    for name, value in _final(result).items():
        data = texts.get(name.partition("_")[0])
        named = (data.dataset.name, data.dataset.digest) if data else (None, None)
        metrics.append(Metric(name, value, end, 0, model, *named))  # a single value at step 0 is drawn as a bar
    return metrics


def _final(result: Result) -> dict[str, float]:
    metrics: dict[str, Any] = {}
    if len(result.curve):
        best = result.curve.loc[result.curve["validation_loss"].idxmin()]
        metrics[f"best_{result.objective.metric('validation_loss')}"] = best["validation_loss"]
        metrics[f"best_{result.objective.metric('validation_perplexity')}"] = math.exp(best["validation_loss"])
        metrics["best_step"] = best["step"]
    for split in ("validation", "test"):
        metrics |= {f"{split}_{name}": value for name, value in flat(result.metrics[split])}
    for bundle in result.bundles:
        suffix = "" if bundle is result.bundle else f"_{bundle.precision}"
        prefix = f"verification{suffix}_"
        verification = dict(flat(bundle.verification))
        metrics[f"verified{suffix}"] = verification.pop("verified", None)
        metrics[f"bundle_bytes{suffix}"] = verification.pop("bundle_bytes", None)
        metrics[f"generation_tokens_per_second{suffix}"] = bundle.timings.get("tokens_per_second")
        metrics |= {f"{prefix}{name}": value for name, value in verification.items()}
    metrics |= {
        "parameters": result.parameters,
        "training_tokens_per_second": result.training_timings.get("tokens_per_second"),
        "training_seconds": result.training_timings.get("seconds"),
        "filling_tokens_per_second": result.bundle.timings.get("filled_per_second"),
    }
    return {name: float(value) for name, value in metrics.items() if isinstance(value, int | float)}


def tags(root: Path, results: Results, result: Result, training: Training) -> dict[str, str]:
    """The tags of a run: corpus, tokenizer, commit and dvc.lock's hashes; MLflow's own, where it has no call."""
    corpus, tokens = results.corpus, results.tokens
    values = {
        KEY: result.key,
        TRAINING: training.id,
        "mlflow.source.name": "pipelines/train.py",
        "mlflow.note.content": note(result),
        "variant": result.name,
        "corpus": corpus.get("name"),
        "corpus_revision": corpus.get("revision"),
        "tokenizer": f"{tokens['kind']} {tokens['vocab_size']}" if tokens else None,
        "tokenizer_sha256": tokens.get("tokenizer_sha256"),
        "protocol": result.metrics.get("protocol"),
        "model_sha256": result.bundle.description.get("model_sha256"),
        "init_from_variant": (result.model.get("init_from") or {}).get("variant"),
        "init_from_model_sha256": (result.model.get("init_from") or {}).get("model_sha256"),
        "mlflow.runColor": colour(results, result),
        "dvc_stage": f"train@{result.name}",
        "dvc_lock_model": result.locked.get(f"data/models/{result.name}"),
        "dvc_lock_bundle": result.locked.get(f"data/onnx/{result.name}"),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
    }
    return git_tags(root) | {name: str(value) for name, value in values.items() if value}


def colour(results: Results, result: Result) -> str:
    """The variant's colour, the same as on the report's page."""
    return COLOURS[[each.name for each in results.variants].index(result.name) % len(COLOURS)]


def git_tags(root: Path) -> dict[str, str]:
    """The commit, and the files that differ from it."""
    commit = _git(root, "rev-parse", "HEAD")
    tags = {"git_commit": commit, "mlflow.source.git.commit": commit, "git_changed": _uncommitted(root)}
    return {name: value for name, value in tags.items() if value}


def _uncommitted(root: Path) -> str:
    """The files that differ from the commit, except the outputs of the pipeline."""
    changed = _git(root, "status", "--porcelain", "--", ".", ":!data", ":!dvc.lock").splitlines()
    return " ".join(line[3:] for line in changed)[:1000]


def _git(root: Path, *arguments: str) -> str:
    """The output of git; empty without git or outside a repository."""
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.rstrip()
    except (OSError, subprocess.CalledProcessError):
        return ""
