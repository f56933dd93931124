"""Configurations for tests: those of the project's params.yaml, with some values replaced."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml

from recurlm import config
from recurlm.config import Fetch, ModelConfig, TrainConfig, override
from recurlm.variants import REGISTRY

CHECKOUT = Path(__file__).resolve().parents[1]
PARAMS = config.load(CHECKOUT / "params.yaml")
ZOO: dict[str, dict[str, Any]] = yaml.safe_load((CHECKOUT / "zoo.yaml").read_text(encoding="utf-8"))["variants"]

# Every cell of the registry has the tests of its equations. What is the same for all of them, such as the server, is
# tested with the cells of params.yaml and with one of each kind of state; with the others where a test is marked slow.
LESSON = list(dict.fromkeys(variant.cell for variant in PARAMS.variants.values()))
SHOWN = [cell for cell in ("mingru", "gated_deltanet", "transformer") if cell in REGISTRY]
OTHERS = [cell for cell in REGISTRY if cell not in (*LESSON, *SHOWN)]


def with_slow_ones(cases: Iterable[str], slow: Iterable[str] = OTHERS) -> list[Any]:
    """The cases for a test, those in `slow` marked so."""
    marked = set(slow)
    return [pytest.param(case, marks=pytest.mark.slow) if case in marked else case for case in cases]


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
