"""The times, parameters, metrics, datasets, tags and artifacts of a run, as plain names and values."""

from __future__ import annotations

import json
import math
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag, Metric, Param

from recurlm.report.lock import flat
from recurlm.report.page import palette_of
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
        now, metric = int(time.time() * 1000), result.objective.metric
        curve = pd.DataFrame(
            {
                metric("train_loss"): result.curve["train_loss"],
                metric("validation_loss"): result.curve["validation_loss"],
                metric("validation_perplexity"): result.curve["validation_loss"].map(math.exp),
                "learning_rate": result.curve["learning_rate"],
                "training_tokens": result.curve["tokens"].astype(float),
            }
        ).set_axis(result.curve["step"])
        values = [(name, value, step) for step, row in curve.to_dict("index").items() for name, value in row.items()]
        return cls("", now, now, tuple(Metric(name, value, now, step) for name, value, step in values))


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


def files(root: Path, result: Result) -> list[tuple[str, Path]]:
    """(artifact folder, file) of the run's small files; the bundles are in its logged models."""
    report = root / REPORT
    places = [
        ("", root / "data/models" / result.name / "curve.csv"),
        *((f"bundles/{bundle.precision}", bundle.folder / "bundle.json") for bundle in result.bundles),
        ("sample", report / "samples" / f"{result.name}.txt"),
        ("plots", report / f"curves{'-cloze' if result.objective.pseudo else ''}.svg"),
    ]
    return [(folder, file) for folder, file in places if file.is_file()]


def final_metrics(result: Result, end: int, model: str, texts: dict[str, DatasetInput]) -> list[Metric]:
    """The scores on both splits, the best of the curve, the verification, the sizes and the timings.

    Args:
        end: when they are logged as of, in ms since 1970.
        model: the id of the logged model that they are of.
        texts: split → the dataset that a score is on.
    """
    values: dict[str, Any] = {}
    if len(result.curve):
        best = result.curve.loc[result.curve["validation_loss"].idxmin()]
        values[f"best_{result.objective.metric('validation_loss')}"] = best["validation_loss"]
        values[f"best_{result.objective.metric('validation_perplexity')}"] = math.exp(best["validation_loss"])
        values["best_step"] = best["step"]
    for split in ("validation", "test"):
        values |= {f"{split}_{name}": value for name, value in flat(result.metrics[split])}
    for bundle in result.bundles:
        suffix = "" if bundle is result.bundle else f"_{bundle.precision}"
        for name, value in flat(bundle.verification):
            whole = name in ("verified", "bundle_bytes")
            values[f"{name}{suffix}" if whole else f"verification{suffix}_{name}"] = value
        values[f"generation_tokens_per_second{suffix}"] = bundle.timings.get("tokens_per_second")
    values["parameters"] = result.parameters
    values["training_tokens_per_second"] = result.training_timings.get("tokens_per_second")
    values["training_seconds"] = result.training_timings.get("seconds")
    values["filling_tokens_per_second"] = result.bundle.timings.get("filled_per_second")
    metrics = []
    for name, value in values.items():
        if isinstance(value, int | float):
            data = texts.get(name.partition("_")[0])
            named = (data.dataset.name, data.dataset.digest) if data else (None, None)
            metrics.append(Metric(name, float(value), end, 0, model, *named))  # a single value at step 0 is a bar
    return metrics


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
        "mlflow.runColor": palette_of(results).colours[result.name],
        "dvc_stage": f"train@{result.name}",
        "dvc_lock_model": result.locked.get(f"data/models/{result.name}"),
        "dvc_lock_bundle": result.locked.get(f"data/onnx/{result.name}"),
        "dvc_experiment": os.environ.get("DVC_EXP_NAME"),
    }
    return git_tags(root) | {name: str(value) for name, value in values.items() if value}


def git_tags(root: Path) -> dict[str, str]:
    """The commit, and the files that differ from it, except the outputs of the pipeline."""
    commit = _git(root, "rev-parse", "HEAD")
    changed = _git(root, "status", "--porcelain", "--", ".", ":!data", ":!dvc.lock").splitlines()
    names = " ".join(line[3:] for line in changed)[:1000]
    tags = {"git_commit": commit, "mlflow.source.git.commit": commit, "git_changed": names}
    return {name: value for name, value in tags.items() if value}


def _git(root: Path, *arguments: str) -> str:
    """The output of git; empty without git or outside a repository."""
    try:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, check=True).stdout.rstrip()
    except (OSError, subprocess.CalledProcessError):
        return ""
