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
            _point(
                int(row["step"]), int(row["tokens"]), float(row["train_loss"]), float(row["validation_loss"]), prefix
            )
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
    heads = model_config.own.get("heads", 1)
    size = heads * max(1, round(settings.hidden_size / heads))  # the nearest that the heads divide
    small = model_config.model_copy(update={"hidden_size": size, "embedding_size": size})
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

    def run(dropout: float) -> dict[str, Any]:
        torch.manual_seed(short.seed)
        config = small.model_copy(update={"dropout": dropout, "input_dropout": None, "output_dropout": None})
        train_losses: list[float] = []

        def loss(network: LanguageModel, subset: Subset) -> float:
            nats, tokens = split_nll(network, subset.ids, subset.starts, SCORING).score
            return nats / tokens

        def validate(network: LanguageModel) -> float:
            train_losses.append(loss(network, training))
            return loss(network, validation)

        stream = Stream(training.ids, short.data.batch_size, short.data.sequence_length)
        try:
            network = model.build(name, config, vocab_size)
            trained = train(network, stream, special, short, small, validate)
        except InputError as error:  # a learning rate or a key that suits the full model may not suit this one
            return {"dropout": dropout, "problem": str(error), "points": [], "gap": None}
        prefix = objective_of(network).metric_prefix
        points = [
            _point(point.step, point.tokens, train_loss, point.validation_loss, prefix)
            for point, train_loss in zip(trained.curve, train_losses, strict=True)
        ]
        best = min(points, key=lambda point: float(point[f"{prefix}validation_nats_per_token"]))
        return {
            "dropout": dropout,
            "problem": None,
            "points": points,
            "gap": points[-1]["gap"],
            f"{prefix}best_validation_nats_per_token": best[f"{prefix}validation_nats_per_token"],
            "best_at_step": best["step"],
        }

    return {
        "model": {"hidden_size": size, "layers": small.layers, "tie_weights": small.tie_weights},
        "train_tokens": training.tokens,
        "validation_tokens": validation.tokens,
        "epochs": settings.epochs,
        "runs": [run(0.0), run(settings.dropout)],
    }


def _point(step: int, tokens: int, train_loss: float, validation_loss: float, prefix: str) -> dict[str, Any]:
    return {
        "step": step,
        "tokens": tokens,
        f"{prefix}train_nats_per_token": train_loss,
        f"{prefix}validation_nats_per_token": validation_loss,
        "gap": validation_loss - train_loss,
    }
