"""The corpus splits behind a result as MLflow datasets, each with its sha256 as digest."""

from __future__ import annotations

import json

from mlflow.entities import Dataset, DatasetInput, InputTag

from recurlm.report.results import Results

SPLITS = {"train": "training", "validation": "validation", "test": "testing"}  # split → MLflow's context
DIGEST = 32  # hex digits of a sha256 that fit MLflow's column


def datasets(results: Results) -> dict[str, DatasetInput]:
    """Split → MLflow dataset."""
    corpus = results.corpus or {}
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
