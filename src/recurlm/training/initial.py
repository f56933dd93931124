"""Going on from an earlier model: its weights, and how a model says where it comes from."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from recurlm import model
from recurlm.errors import InputError
from recurlm.model import LanguageModel
from recurlm.storage import read_json


def load_initial_weights(folder: Path, network: LanguageModel, name: str, tokens: dict[str, Any]) -> None:
    """Give a fresh model the weights of the one in `folder`.

    Args:
        tokens: the manifest of data/tokens, which names the model whose tokenizer it has.

    Raises:
        InputError: the tokens are of another model's tokenizer, or the model has another shape.
    """
    earlier = model.load(folder)
    found = read_json(folder / "model.json")["sha256"]
    if (tokens.get("init_from") or {}).get("model_sha256") != found:
        raise InputError(
            f"data/tokens: not made for the model of train.init_from, {folder}: dvc repro --force tokenize"
        )
    try:
        network.load_state_dict(earlier.state_dict())
    except RuntimeError:
        raise InputError(
            f"params.yaml: train.init_from, {folder}, has another shape than variant '{name}': give them the same "
            "cell, sizes and layers, and train no other variant (dvc repro verify@NAME)"
        ) from None


def check_folder(folder: Path, data: Path) -> None:
    """Refuse a folder that DVC empties.

    Raises:
        InputError: the folder is one of `data`.
    """
    if folder.resolve().is_relative_to(data.resolve()):
        raise InputError(
            f"params.yaml: train.init_from is {folder}, which DVC deletes before it trains: copy it out of {data} first"
        )


def copy_tokenizer(tokens: Path, folder: Path) -> dict[str, Any]:
    """Put the tokenizer beside a model, and return what model.json says about it and about the earlier model."""
    manifest = read_json(tokens / "manifest.json")
    shutil.copyfile(tokens / "tokenizer.json", folder / "tokenizer.json")
    kept = {"kind": manifest["kind"], "lowercase": manifest["lowercase"], "sha256": manifest["tokenizer_sha256"]}
    return {"tokenizer": kept} | ({"init_from": manifest["init_from"]} if "init_from" in manifest else {})
