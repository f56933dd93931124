"""Training goes on from an earlier model: its weights and its tokenizer are kept, and it is named."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from tiny_training import tiny_params, write_tiny_tokens

from recurlm import model
from recurlm.errors import InputError
from recurlm.report.lock import Lock
from recurlm.training.run import train_variant

NEW_LINE = "QUEEN. All {} of my songs are of the sea.\n"


@pytest.fixture
def earlier(data: Path, tmp_path: Path) -> Path:
    """A trained model, outside of what DVC deletes."""
    train_variant("gru", tiny_params(), data, lambda: False)
    return Path(shutil.copytree(data / "models/gru", tmp_path / "earlier"))


def description(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "model.json").read_text(encoding="utf-8"))
    return found


def test_a_model_goes_on_with_its_weights_and_tokenizer_and_names_where_it_comes_from(
    data: Path, earlier: Path
) -> None:
    slow = {"muon_lr": 1e-9, "adamw_lr": 1e-9}
    params = tiny_params(train={"init_from": str(earlier)}, variants={"gru": slow})
    write_tiny_tokens(data, params, NEW_LINE)
    assert (data / "tokens/tokenizer.json").read_bytes() == (earlier / "tokenizer.json").read_bytes()
    train_variant("gru", params, data, lambda: False)
    before, after = model.load(earlier).state_dict(), model.load(data / "models/gru").state_dict()
    for name, weights in before.items():
        assert torch.allclose(weights, after[name], atol=1e-5)
    origin = {"variant": "gru", "model_sha256": description(earlier)["sha256"]}
    assert description(data / "models/gru")["init_from"] == origin
    assert "init_from" not in description(earlier)


def test_what_does_not_go_together_is_one_line(data: Path, earlier: Path, tmp_path: Path) -> None:
    params = tiny_params(train={"init_from": str(earlier)})
    with pytest.raises(InputError, match=r"data/tokens: not made for the model of train\.init_from"):
        train_variant("gru", params, data, lambda: False)
    write_tiny_tokens(data, params, NEW_LINE)
    with pytest.raises(InputError, match="has another shape than variant 'lstm'"):
        train_variant("lstm", params, data, lambda: False)
    with pytest.raises(InputError, match=r"tokenize\.kind is 'bpe', and the model of .* was trained with 'char'"):
        write_tiny_tokens(data, tiny_params(train={"init_from": str(earlier)}, tokenize={"kind": "bpe"}))
    inside = tiny_params(train={"init_from": str(data / "models/gru")})
    with pytest.raises(InputError, match="which DVC deletes before it trains"):
        train_variant("gru", inside, data, lambda: False)
    with pytest.raises(InputError, match=r"nowhere/model\.json: no such file"):
        write_tiny_tokens(data, tiny_params(train={"init_from": str(tmp_path / "nowhere")}))
    (earlier / "tokenizer.json").write_text("{}")
    with pytest.raises(InputError, match=r"tokenizer\.json: corrupted"):
        write_tiny_tokens(data, params)


@pytest.mark.parametrize(("sha256", "noticed"), [("b" * 64, True), ("a" * 64, False)])
def test_results_are_stale_where_another_model_lies_in_the_folder_by_now(
    tmp_path: Path, sha256: str, noticed: bool
) -> None:
    (tmp_path / "my_model").mkdir()
    (tmp_path / "data/tokens").mkdir(parents=True)
    (tmp_path / "params.yaml").write_text("train: {init_from: my_model}", encoding="utf-8")
    lock = {"stages": {"tokenize": {"params": {"params.yaml": {"train.init_from": "my_model"}}}}}
    (tmp_path / "dvc.lock").write_text(yaml.safe_dump(lock), encoding="utf-8")
    made_for = {"init_from": {"variant": "gru", "model_sha256": "a" * 64}}
    (tmp_path / "data/tokens/manifest.json").write_text(json.dumps(made_for), encoding="utf-8")
    (tmp_path / "my_model/model.json").write_text(json.dumps({"sha256": sha256}), encoding="utf-8")
    why = Lock(tmp_path).stale("lstm", ("tokenize",))
    assert (why is not None and "another model lies in my_model" in why) == noticed
    assert noticed or why is None
