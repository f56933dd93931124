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
from recurlm.config import Evaluate, Train, Variant
from recurlm.diagnostics.likelihoods import read
from recurlm.diagnostics.parts import Part
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.tokens.batches import Stream
from recurlm.training.loop import train


def learning_curve(path: Path) -> list[dict[str, Any]]:
    """The points of the run that made the model, with the gap between its two losses, in nats per token.

    The training loss is the mean since the point before, of weights that were still being learned, dropout included.
    """
    with path.open(encoding="utf-8", newline="") as file:
        return [
            {
                "step": int(row["step"]),
                "tokens": int(row["tokens"]),
                "train_nats_per_token": float(row["train_loss"]),
                "validation_nats_per_token": float(row["validation_loss"]),
                "gap": float(row["validation_loss"]) - float(row["train_loss"]),
            }
            for row in csv.DictReader(file)
        ]


def paired(
    name: str,
    block: Variant,
    training: Part,
    validation: Part,
    vocab_size: int,
    special: dict[str, int],
    recipe: Train,
    settings: config.Overfitting,
) -> dict[str, Any]:
    """Both runs of a small model of the variant, from the same weights, with the same batches."""
    small = block.model_copy(update={"hidden_size": settings.hidden_size, "embedding_size": settings.hidden_size})
    rows = min(settings.batch_size, len(training.ids) // (2 * recipe.sequence_length)) or 1
    changes = {"epochs": settings.epochs, "batch_size": rows, "num_evals": settings.points, "state_reset_prob": 0.0}
    short = recipe.model_copy(update=changes)
    runs = [
        {"dropout": dropout, **_run(name, small, dropout, training, validation, vocab_size, special, short)}
        for dropout in (0.0, settings.dropout)
    ]
    return {
        "model": {"hidden_size": settings.hidden_size, "layers": block.layers, "tie_weights": block.tie_weights},
        "train_tokens": training.tokens,
        "validation_tokens": validation.tokens,
        "epochs": settings.epochs,
        "runs": runs,
    }


def _run(
    name: str,
    block: Variant,
    dropout: float,
    training: Part,
    validation: Part,
    vocab_size: int,
    special: dict[str, int],
    recipe: Train,
) -> dict[str, Any]:
    torch.manual_seed(recipe.seed)
    shares = {"dropout": dropout, "input_dropout": None, "output_dropout": None}
    network = model.build(name, block.model_copy(update=shares), vocab_size)
    points: list[dict[str, float]] = []
    scoring = Evaluate(batch_size=64, window_tokens=256, context_tokens=32)

    def score(network: LanguageModel, part: Part) -> float:
        nats, tokens = read(network, part.ids, part.starts, scoring).score
        return nats / tokens

    def validate(network: LanguageModel) -> float:
        losses = score(network, training), score(network, validation)
        points.append({"train": losses[0], "validation": losses[1]})
        return losses[1]

    stream = Stream(training.ids, recipe.batch_size, recipe.sequence_length)
    try:
        run = train(network, stream, special, recipe, block, validate)
    except InputError as error:  # a rate that suits the whole model may be too high for so short a run
        return {"problem": str(error), "points": [], "gap": None}
    rows = [
        {
            "step": point.step,
            "tokens": point.tokens,
            "train_nats_per_token": losses["train"],
            "validation_nats_per_token": losses["validation"],
            "gap": losses["validation"] - losses["train"],
        }
        for point, losses in zip(run.curve, points, strict=True)
    ]
    best = min(rows, key=lambda row: row["validation_nats_per_token"])
    return {
        "problem": None,
        "points": rows,
        "gap": rows[-1]["gap"],
        "best_validation_nats_per_token": best["validation_nats_per_token"],
        "best_at_step": best["step"],
    }
