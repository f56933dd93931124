"""Configurations for tests: those of the project's params.yaml, with some values replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from recurlm import config
from recurlm.config import Fetch, ModelConfig, TrainConfig, override

CHECKOUT = Path(__file__).resolve().parents[1]
PARAMS = config.load(CHECKOUT / "params.yaml")


def merged(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """`old` with the values of `new` in their places, section by section."""
    both = {key: merged(old[key], new[key]) for key in old.keys() & new.keys() if isinstance(new[key], dict)}
    return {**old, **new, **both}


def write_params(folder: Path, changes: dict[str, Any]) -> None:
    """Write the project's params.yaml into a folder, with some values replaced."""
    raw = yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))
    text = yaml.safe_dump(merged(raw, changes), sort_keys=False, allow_unicode=True)
    (folder / "params.yaml").write_text(text, encoding="utf-8")


def fetch_config(**changes: Any) -> Fetch:
    """`fetch` with some values replaced, section by section."""
    return Fetch.model_validate(merged(PARAMS.fetch.model_dump(), changes))


def train_config(**changes: Any) -> TrainConfig:
    """`train` with dotted keys replaced: `train_config(**{"data.epochs": 2})`."""
    return override(PARAMS.train, changes)


def model_config(cell: str = "lstm", **changes: Any) -> ModelConfig:
    """A small variant: `model` of params.yaml around a cell; a name that starts with "bi" is bidirectional."""
    small = {"embedding_size": 6, "hidden_size": 9, "muon_lr": 0.01, "adamw_lr": 0.004}
    direction = {"bidirectional": True} if cell.startswith("bi") else {}
    return ModelConfig(**(PARAMS.model | small | {"cell": cell.removeprefix("bi")} | direction | changes))
