"""Cells of zoo.yaml as bundles: verified in every precision, and taken by runtime and server as they are."""

from __future__ import annotations

import inspect
from pathlib import Path

import numpy as np
import pytest
import torch
from configs import OTHERS, PARAMS, SHOWN, model_config, with_slow_ones
from server_process import Server
from tiny_bundles import TOKENIZERS, VOCABULARY

from recurlm.config import Evaluate, override
from recurlm.evaluation.perplexity import describe, score
from recurlm.export.bundle import write_bundle, write_graphs
from recurlm.export.graphs import ExportCache
from recurlm.model import LanguageModel, build
from recurlm.runtime import Generator
from recurlm.storage import sha256_of
from recurlm.tokens.files import TokenFile
from recurlm.tokens.special import special_ids
from recurlm.variants import REGISTRY
from recurlm.verify.agreement import verify

PROMPT, COUNT = "king or ", 20
OWN = {"heads": 2, "key_size": 6, "window": 8}
OPTIONS = {
    "rnn-identity": {"cell": "rnn", "nonlinearity": "relu", "start": "identity"},
    "gru-reset-before": {"cell": "gru", "reset_after": False},
    "lstm-options": {"cell": "lstm", "cifg": True, "peepholes": True, "projection": 10},
}
SCORING = Evaluate(batch_size=3, window_tokens=40, context_tokens=10)
SETTINGS = override(
    PARAMS.verify,
    {
        "num_tokens": 60,
        "sampling": [{"temperature": 0.8, "top_k": 5, "top_p": 1.0}],
        "max_perplexity_increase": {"int8": 0.5, "int4": 0.5},  # random weights say nothing of a trained model's loss
    },
)


def random_model(name: str) -> LanguageModel:
    """As zoo.yaml has them: in a residual block with a short convolution and an MLP."""
    torch.manual_seed(4)
    block = OPTIONS.get(name, {"cell": name})
    own = {key: OWN[key] for key in OWN.keys() & inspect.signature(REGISTRY[block["cell"]]).parameters.keys()}
    around = {"block": "residual", "conv": 4, "mlp_ratio": 1.0, "concat_layers": False}
    config = model_config(embedding_size=20, hidden_size=24, layers=1, **around, **own, **block)
    model = build(name, config, VOCABULARY).eval().requires_grad_(False)
    for parameter in model.parameters():  # what begins as zero, one, or the same in each head is no test
        parameter.add_(0.1 * torch.randn_like(parameter))
    model.embedding.weight.mul_(3)
    return model


def greedy(model: LanguageModel, prompt: str, count: int) -> str:
    """The likeliest tokens by `forward` over the whole text, once again for each."""
    tokenizer = TOKENIZERS["bpe"]
    special = special_ids(tokenizer)
    ids = [special["bos"], *tokenizer.encode(prompt).ids]
    for _ in range(count):
        logits, _ = model(torch.tensor([ids]), model.initial_state(1))
        logits[..., special["mask"]] = -torch.inf
        token = int(logits[0, -1].argmax())
        if token == special["bos"]:
            break
        ids.append(token)
    return tokenizer.decode(ids[1:])[len(prompt) :]


@pytest.mark.parametrize("cell", with_slow_ones([*SHOWN, *OTHERS, *OPTIONS], [*OTHERS, *OPTIONS]))
def test_every_precision_is_verified_generates_and_is_served(tmp_path: Path, cell: str) -> None:
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(TOKENIZERS["bpe"].to_str(), encoding="utf-8")
    facts = {
        "tokenizer_kind": "bpe",
        "special": special_ids(TOKENIZERS["bpe"]),
        "tokenizer_sha256": sha256_of(tokenizer),
    }
    manifest = facts | {"kind": "bpe", "corpus": {}}
    ids = np.array([0, *np.random.default_rng(0).integers(2, VOCABULARY, 199)], np.uint16)
    counts = {"tokens": 199, "words": 60, "bytes": 199, "characters": 199, "out_of_vocabulary_words": 0}
    held_out = TokenFile(ids, np.array([0, 200]), counts, manifest)
    model, cache = random_model(cell), ExportCache()
    metrics = describe(score(model, held_out.ids, held_out.starts, 40, 10, 3), counts, "")
    for precision in ("fp32", "int8", "int4"):
        graphs, bundle = tmp_path / "graphs" / precision, tmp_path / "onnx" / precision
        graphs.mkdir(parents=True)
        write_graphs(graphs, cell, model, manifest, PARAMS.export, precision, ids, cache)
        results = verify(cell, model, graphs, held_out, metrics, SETTINGS, SCORING)
        assert results["precision"] == precision
        assert results["greedy_tokens_identical"] + results["sampled_tokens_identical"] + results["near_ties"] == 120
        bundle.mkdir(parents=True)
        write_bundle(bundle, graphs, tokenizer, facts | {"parameters": 0, "metrics": {}, "verification": {}})
    folders = {precision: tmp_path / "onnx" / precision for precision in ("fp32", "int8", "int4")}
    texts = {
        precision: Generator.from_bundle(folder).generate(PROMPT, COUNT, temperature=0, seed=1)
        for precision, folder in folders.items()
    }
    assert texts["fp32"].rstrip("\ufffd") == greedy(model, PROMPT, COUNT).rstrip("\ufffd")
    if cell in SHOWN:
        assert served(folders) == texts


def served(folders: dict[str, Path]) -> dict[str, str]:
    """What the server answers for each model."""
    options = [part for name, folder in folders.items() for part in ("--model", f"{name}={folder}")]
    with Server(*options) as server:
        body = {"prompt": PROMPT, "max_tokens": COUNT, "temperature": 0}
        answers = {name: server.post("/v1/completions", body | {"model": name}).json() for name in folders}
    return {name: answer["choices"][0]["text"] for name, answer in answers.items()}
