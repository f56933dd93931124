"""The stage diagnose on untrained models and a tiny corpus: every key of its files."""

from __future__ import annotations

import json
import re
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
import yaml
from configs import PARAMS, model_config
from tiny_models import VOCABULARY
from tiny_project import CHECKOUT, write_tiny_corpus

from recurlm import config, model
from recurlm.config import override
from recurlm.diagnostics import diagnose, gradients
from recurlm.diagnostics.subject import Subject
from recurlm.objective import objective_of

Diagnoses = dict[str, dict[str, Any]]
PARTS = ("perplexity", "diagnostics", "samples")
LIKELIHOOD = re.compile("nats_per|perplexity_per|bits_per")

SMALL: dict[str, Any] = {
    "fetch.source": "files",
    "fetch.files.val_fraction": 0.2,
    "fetch.files.test_fraction": 0.2,
    "tokenize.vocab_size": 280,
    "train.precision": "fp32",
    "train.data.batch_size": 4,
    "train.data.sequence_length": 32,
    "evaluate.batch_size": 4,
    "evaluate.window_tokens": 64,
    "evaluate.context_tokens": 32,
    "diagnose.bootstrap_samples": 20,
    "diagnose.cold_window_tokens": 32,
    "diagnose.cache.test_tokens": 100_000,
    "diagnose.cache.validation_tokens": 200,
    "diagnose.cache.window": [50],
    "diagnose.dynamic.test_tokens": 100_000,
    "diagnose.dynamic.validation_tokens": 100,
    "diagnose.dynamic.statistics_tokens": 128,
    "diagnose.gradients.windows": 4,
    "diagnose.gradients.reach": 12,
    "diagnose.context.windows": 8,
    "diagnose.context.tokens": 24,
    "diagnose.context.cut": [1, 5, 20],
    "diagnose.context.beyond": [5],
    "diagnose.gates.windows": 4,
    "diagnose.gates.tokens": 16,
    "diagnose.overfitting.train_tokens": 500,
    "diagnose.overfitting.validation_tokens": 300,
    "diagnose.overfitting.epochs": 2,
    "diagnose.overfitting.hidden_size": 16,
    "diagnose.overfitting.num_evals": 2,
    "diagnose.text.temperatures": [0.8],
    "diagnose.text.num_samples": 3,
    "diagnose.text.num_tokens": 20,
    "diagnose.text.prompt_tokens": 4,
}
TINY = {"embedding_size": 8, "hidden_size": 8, "layers": 1}


@pytest.fixture(scope="module")
def diagnoses(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Diagnoses]:
    """What evaluate.py and diagnose.py write of an LSTM and of a bidirectional one."""
    folder = tmp_path_factory.mktemp("diagnosis")
    write_tiny_corpus(folder / "my_text")
    raw = yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))
    raw["variants"] = {name: raw["variants"][name] | TINY for name in ("lstm", "bilstm")}
    shared = {key: raw[key] for key in ("model", "variants")}
    (folder / "params.yaml").write_text(yaml.safe_dump(raw), encoding="utf-8")
    params = override(config.load(folder / "params.yaml"), SMALL)
    dumped = params.model_dump(mode="json")
    (folder / "params.yaml").write_text(yaml.safe_dump(dumped | shared), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)

        def run(script: str, *arguments: str) -> None:
            patch.setattr(sys, "argv", [script, *arguments])
            runpy.run_path(str(CHECKOUT / "pipelines" / script), run_name="__main__")

        run("fetch.py")
        run("tokenize_corpus.py")
        results = {}
        for name in ("lstm", "bilstm"):
            torch.manual_seed(1)
            target = Path("data/models") / name
            target.mkdir(parents=True)
            model_config = params.variant(name)
            vocab_size = json.loads(Path("data/tokens/manifest.json").read_bytes())["vocab_size"]
            model.save(target, model.build(name, model_config, vocab_size), name, model_config)
            curve = "step,tokens,train_loss,validation_loss,learning_rate\n5,100,3.0,3.5,0.1\n"
            (target / "curve.csv").write_text(curve, encoding="utf-8")
            run("evaluate.py", name)
            run("diagnose.py", name)
            results[name] = {"metrics": json.loads(Path(f"data/metrics/{name}.json").read_bytes())}
            results[name] |= {part: json.loads(Path(f"data/metrics/{part}/{name}.json").read_bytes()) for part in PARTS}
        yield results


@pytest.mark.parametrize("block", ["none", "residual"])
def test_a_fresh_residual_block_s_projection_is_drawn_so_that_a_gradient_passes(block: str) -> None:
    config, windows = model_config("lstm", block=block), np.random.default_rng(1).integers(2, VOCABULARY, (3, 8))
    trained = model.build("lstm", config, VOCABULARY)
    params = SimpleNamespace(diagnose=PARAMS.diagnose, train=PARAMS.train, variant=lambda _: config)
    subject = SimpleNamespace(
        name="lstm", model=trained, params=params, objective=objective_of(trained), windows=lambda *_: windows
    )
    measured = diagnose._gradients(cast("Subject", subject))
    assert measured is not None
    assert all(norm > 0 for norm in measured["before_training"]["state_mean"][1:])
    assert ("projection_before_training" in measured) == (block == "residual")
    torch.manual_seed(PARAMS.train.seed)
    fresh = model.build("lstm", config, VOCABULARY)
    as_it_is = gradients.describe(gradients.flow(fresh, windows))
    assert (measured["before_training"] == as_it_is) == (block == "none")


def paths(value: Any, above: str = "") -> Iterator[str]:
    """The path of every key in a JSON value."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield f"{above}.{key}"
            yield from paths(part, f"{above}.{key}")
    elif isinstance(value, list):
        for part in value:
            yield from paths(part, above)


def likelihoods(value: Any) -> set[str]:
    """The keys, by their paths, that name a likelihood."""
    return {path for path in paths(value) if LIKELIHOOD.search(path.rpartition(".")[2])}


def test_every_likelihood_of_a_cloze_model_is_called_pseudo(diagnoses: Diagnoses) -> None:
    for part, minimum in {"metrics": 10, "perplexity": 20, "diagnostics": 8, "samples": 0}.items():
        keys = likelihoods(diagnoses["bilstm"][part])
        assert len(keys) >= minimum
        assert not {path for path in keys if not path.rpartition(".")[2].startswith("pseudo_")}
    blocks = diagnoses["bilstm"]["diagnostics"]
    for block in ("context", "overfitting"):
        assert likelihoods(blocks[block])
    assert "pseudo_nats" in blocks["gradients"]["unit"]


def test_no_likelihood_of_a_causal_model_is_called_pseudo(diagnoses: Diagnoses) -> None:
    for value in diagnoses["lstm"].values():
        assert not {path for path in paths(value) if "pseudo" in path}
    assert likelihoods(diagnoses["lstm"]["diagnostics"])
    assert "pseudo" not in diagnoses["lstm"]["diagnostics"]["gradients"]["unit"]


@pytest.mark.parametrize("name", ["lstm", "bilstm"])
def test_static_blocks_are_the_score_of_the_stage_evaluate(diagnoses: Diagnoses, name: str) -> None:
    metrics, perplexity = diagnoses[name]["metrics"], diagnoses[name]["perplexity"]
    blocks = [perplexity["static"]]
    if name == "lstm":
        adaptive = [perplexity[protocol] for protocol in ("neural_cache", "dynamic_evaluation")]
        assert all(block["whole_split"] for block in adaptive)
        blocks += [block["static_on_the_same_tokens"] for block in adaptive]
    for block in blocks:
        for key, value in metrics["test"].items():
            assert block[key] == pytest.approx(value, rel=1e-6)
    rows = perplexity["by_frequency"]
    assert sum(row["fraction"] for row in rows) == pytest.approx(1)
    assert sum(row["tokens"] for row in rows) == metrics["test"]["tokens"]


def test_keys_are_the_field_s_words(diagnoses: Diagnoses) -> None:
    for parts in diagnoses.values():
        keys = {path.rpartition(".")[2] for path in paths(parts)}
        assert not {key for key in keys if re.search("section|share|told|heart|causal", key)}
        assert parts["perplexity"]["static"]["windows"] > 1
        assert parts["diagnostics"]["gates"]["reported"] is True
