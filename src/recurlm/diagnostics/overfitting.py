"""The gap between training and validation: of the run that made the model, and of two short runs that invite it.

The short runs pass many times over a small part of the train split, one without and one with dropout (Srivastava et al.
2014; between layers as in Zaremba, Sutskever & Vinyals 2014, arXiv:1409.2329), all else alike. Both losses are scored
the same way, without dropout.
"""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import torch

from recurlm import config, model
from recurlm.config import Evaluate, ModelConfig, TrainConfig, override
from recurlm.diagnostics.likelihoods import split_nll
from recurlm.diagnostics.parts import Part
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.training.batches import Stream
from recurlm.training.loop import train


def learning_curve(path: Path, prefix: str) -> list[dict[str, Any]]:
    """The points of the run that made the model, with the gap between its two losses, in nats per token.

    The training loss is the mean since the point before, of weights that were still being learned, dropout included.
    `prefix` is that of the objective's metrics.
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
    training: Part,
    validation: Part,
    vocab_size: int,
    special: dict[str, int],
    train_config: TrainConfig,
    settings: config.Overfitting,
) -> dict[str, Any]:
    """Both runs of a small model of the variant, from the same weights, with the same batches."""
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
    training: Part,
    validation: Part,
    vocab_size: int,
    special: dict[str, int],
    train_config: TrainConfig,
) -> dict[str, Any]:
    torch.manual_seed(train_config.seed)
    dropouts = {"dropout": dropout, "input_dropout": None, "output_dropout": None}
    network = model.build(name, model_config.model_copy(update=dropouts), vocab_size)
    prefix = objective_of(network).metric_prefix
    points: list[dict[str, float]] = []
    scoring = Evaluate(batch_size=64, window_tokens=256, context_tokens=32)

    def score(network: LanguageModel, part: Part) -> float:
        nats, tokens = split_nll(network, part.ids, part.starts, scoring).score
        return nats / tokens

    def validate(network: LanguageModel) -> float:
        losses = score(network, training), score(network, validation)
        points.append({"train": losses[0], "validation": losses[1]})
        return losses[1]

    stream = Stream(training.ids, train_config.data.batch_size, train_config.data.sequence_length)
    try:
        run = train(network, stream, special, train_config, model_config, validate)
    except InputError as error:  # a rate that suits the whole model may be too high for so short a run
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
