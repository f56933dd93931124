"""Configurations for tests: those of the project's params.yaml, with some values replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from recurlm import config
from recurlm.config import ModelConfig, TrainConfig, override

CHECKOUT = Path(__file__).resolve().parents[1]
PARAMS = config.load(CHECKOUT / "params.yaml")


def train_config(**changes: Any) -> TrainConfig:
    """`train` with dotted keys replaced: `train_config(**{"data.epochs": 2})`."""
    return override(PARAMS.train, changes)


def model_config(cell: str = "lstm", **changes: Any) -> ModelConfig:
    """A small variant: `model` of params.yaml around a cell; a name that starts with "bi" is bidirectional."""
    small = {"embedding_size": 6, "hidden_size": 9, "muon_lr": 0.01, "adamw_lr": 0.004}
    direction = {"bidirectional": True} if cell.startswith("bi") else {}
    return ModelConfig(**(PARAMS.model | small | {"cell": cell.removeprefix("bi")} | direction | changes))
