"""The generalization gap: of the model's own training run, and of two short runs that overfit.

The short runs make many epochs over a small subset of the train split, one without and one with dropout (Srivastava et
al. 2014; between layers as in Zaremba, Sutskever & Vinyals 2014, arXiv:1409.2329), all else equal. Both losses are
evaluated without dropout.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from recurlm import config, model
from recurlm.config import Evaluate, ModelConfig, TrainConfig, override
from recurlm.diagnostics.likelihoods import split_nll
from recurlm.diagnostics.subset import Subset
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.training.batches import Stream
from recurlm.training.loop import train

SCORING = Evaluate(batch_size=64, window_tokens=256, context_tokens=32)  # of both losses of the short runs


def learning_curve(path: Path, prefix: str) -> list[dict[str, Any]]:
    """The evaluations of the training run, with the gap between validation and training loss, in nats per token.

    The training loss is the mean over the steps since the last evaluation, with dropout. `prefix` is that of the
    objective's metrics.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {
                "step": int(row["step"]),
                "tokens": int(row["tokens"]),
                f"{prefix}train_nats_per_token": float(row["train_loss"]),
                f"{prefix}validation_nats_per_token": float(row["validation_loss"]),
                "gap": float(row["validation_loss"]) - float(row["train_loss"]),
            }
            for row in csv.DictReader(file)
        ]


def paired(
    name: str,
    model_config: ModelConfig,
    training: Subset,
    validation: Subset,
    vocab_size: int,
    special: dict[str, int],
    train_config: TrainConfig,
    settings: config.Overfitting,
) -> dict[str, Any]:
    """Train a small model of the variant without and with dropout, from the same weights on the same batches."""
    sizes = {"hidden_size": settings.hidden_size, "embedding_size": settings.hidden_size}
    small = model_config.model_copy(update=sizes)
    rows = min(settings.batch_size, len(training.ids) // (2 * train_config.data.sequence_length)) or 1
    short = override(
        train_config,
        {
            "data.epochs": settings.epochs,
            "data.batch_size": rows,
            "data.state_reset_prob": 0.0,
            "evaluation.num_evals": settings.num_evals,
        },
    )
    runs = [
        {"dropout": dropout, **_run(name, small, dropout, training, validation, vocab_size, special, short)}
        for dropout in (0.0, settings.dropout)
    ]
    return {
        "model": {"hidden_size": settings.hidden_size, "layers": small.layers, "tie_weights": small.tie_weights},
        "train_tokens": training.tokens,
        "validation_tokens": validation.tokens,
        "epochs": settings.epochs,
        "runs": runs,
    }


def _run(
    name: str,
    model_config: ModelConfig,
    dropout: float,
    training: Subset,
    validation: Subset,
    vocab_size: int,
    special: dict[str, int],
    train_config: TrainConfig,
) -> dict[str, Any]:
    torch.manual_seed(train_config.seed)
    dropouts = {"dropout": dropout, "input_dropout": None, "output_dropout": None}
    network = model.build(name, model_config.model_copy(update=dropouts), vocab_size)
    prefix = objective_of(network).metric_prefix
    points: list[dict[str, float]] = []

    def score(network: LanguageModel, subset: Subset) -> float:
        nats, tokens = split_nll(network, subset.ids, subset.starts, SCORING).score
        return nats / tokens

    def validate(network: LanguageModel) -> float:
        losses = score(network, training), score(network, validation)
        points.append({"train": losses[0], "validation": losses[1]})
        return losses[1]

    stream = Stream(training.ids, train_config.data.batch_size, train_config.data.sequence_length)
    try:
        run = train(network, stream, special, train_config, model_config, validate)
    except InputError as error:  # a learning rate that suits the full model may be too high here
        return {"problem": str(error), "points": [], "gap": None}
    rows = [
        {
            "step": point.step,
            "tokens": point.tokens,
            f"{prefix}train_nats_per_token": losses["train"],
            f"{prefix}validation_nats_per_token": losses["validation"],
            "gap": losses["validation"] - losses["train"],
        }
        for point, losses in zip(run.curve, points, strict=True)
    ]
    best = min(rows, key=lambda row: row[f"{prefix}validation_nats_per_token"])
    return {
        "problem": None,
        "points": rows,
        "gap": rows[-1]["gap"],
        f"{prefix}best_validation_nats_per_token": best[f"{prefix}validation_nats_per_token"],
        "best_at_step": best["step"],
    }
