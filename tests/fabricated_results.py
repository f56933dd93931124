"""A small data/ tree as the stages leave it, with models that nobody trained."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import yaml
from configs import CHECKOUT, PARAMS
from onnx import TensorProto, helper, numpy_helper

from recurlm.report.lock import md5_of
from recurlm.storage import write_sealed_json

VARIANTS = ("rnn", "lstm", "bilstm")


def write_results(root: Path, variants: Sequence[str] = VARIANTS) -> None:
    """Write params.yaml, dvc.lock and data/ for variants that have run through every stage."""
    params = yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))
    params["train"] |= {"seed": 7}
    params["export"] |= {"precisions": ["fp32"]}
    params["report"] |= {"prompt": "KING.\n", "max_new_tokens": 8}
    params["model"] |= {"concat_layers": False}
    params["variants"] = {name: block(name) for name in variants}
    (root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False), encoding="utf-8")
    splits = {
        split: {
            "sha256": sha(split.encode()),
            "documents": 2,
            "characters": 90,
            "bytes": 100,
            "words": 20,
            "tokens": 40,
        }
        for split in ("train", "validation", "test")
    }
    named = {split: sizes | {"names": ["one", "other"]} for split, sizes in splits.items()}
    corpus = {"source": "packaged", "name": "two <plays>", "revision": None, "licence": "MIT", "splits": named}
    tokens = {"kind": "bpe", "vocab_size": 300, "tokenizer_sha256": sha(b"tokenizer"), "splits": splits}
    write(root / "data/corpus/manifest.json", corpus)
    write(root / "data/tokens/manifest.json", tokens)
    for number, name in enumerate(variants):
        write_variant(root / "data", name, number)
        write_diagnosis(root / "data", name)
    write_lock(root)


def block(name: str) -> dict[str, Any]:
    cell = name.removeprefix("bi")
    sizes = {"embedding_size": 4, "hidden_size": 8, "muon_lr": 0.01, "adamw_lr": 0.004}
    return {"cell": cell, "bidirectional": cell != name, **sizes}


def write_variant(data: Path, name: str, number: int) -> None:
    """One variant's model, metrics, verified bundle and timings; a higher number scores better."""
    pseudo = "pseudo_" if name.startswith("bi") else ""
    weights = f"weights of {name}".encode()
    folder = data / "models" / name
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(weights)
    write(
        folder / "model.json",
        {
            "variant": name,
            "parameters": 1234 + number,
            "gates": number,
            "config": PARAMS.model | {"concat_layers": False} | block(name),
        },
    )
    rows = [f"{step},{step * 1000},{6 - step / 10},{5.5 - step / 10 - number / 4},0.01" for step in (5, 10, 15)]
    header = "step,tokens,train_loss,validation_loss,learning_rate"
    (folder / "curve.csv").write_text("\n".join([header, *rows]) + "\n", encoding="utf-8")
    losses = [
        (step, 6 - step / 10, f"{5.75 - step / 10 - number / 4}" if step % 5 == 0 else "") for step in range(1, 16)
    ]
    logged = [f"{step},{step * 1000},{train},{validation},0.01" for step, train, validation in losses]
    (folder / "log.csv").write_text("\n".join([header, *logged]) + "\n", encoding="utf-8")

    loss = 4.0 - number / 4
    scores = {
        f"{pseudo}nats_per_token": loss,
        f"{pseudo}perplexity_per_token": float(np.exp(loss)),
        f"{pseudo}perplexity_per_word": float(np.exp(loss * 1.5)),
        f"{pseudo}bits_per_byte": loss / 2,
        "tokens": 40,
        "out_of_vocabulary_rate": 0.0,
    }
    protocol = "cloze" if pseudo else "streamed"
    metrics = {"variant": name, "protocol": protocol, "parameters": 1234 + number, "validation": scores, "test": scores}
    write(data / "metrics" / f"{name}.json", metrics)
    verification = {
        "variant": name,
        "verified": True,
        "largest_logit_difference": 2.5e-6,
        "scorer_nats_difference": 1e-8,
        "greedy_tokens_identical": 1000,
        "sampled_tokens_identical": 4000,
        "near_ties": 0,
        "chunked_calls_identical": True,
        "bundle_bytes": 12_345_678,
    }
    write(data / "metrics/verification" / f"{name}.json", {"fp32": verification})

    bundle = data / "onnx" / name / "fp32"
    bundle.mkdir(parents=True)
    graph = "filler.onnx" if pseudo else "generator.onnx"
    onnx.save_model(tiny_graph(), bundle / graph)
    (bundle / "tokenizer.json").write_text("{}", encoding="utf-8")
    files = {
        file: {"sha256": sha((bundle / file).read_bytes()), "bytes": (bundle / file).stat().st_size}
        for file in (graph, "tokenizer.json")
    }
    description = {
        "format": 3,
        "precision": "fp32",
        "variant": name,
        "objective": "cloze" if pseudo else "causal",
        "tokenizer_kind": "bpe",
        "vocab_size": 300,
        "special": {"bos": 0, "mask": 1, "unk": None, "eol": None},
        "state_spec": {"h": [8]},
        "model_sha256": sha(weights),
        "files": files,
        "verification": verification,
    }
    write_sealed_json(bundle / "bundle.json", description)

    speed = {"tokens_per_second": 12345.6 + number, "threads": 2}
    trained = {"model_sha256": sha(weights), "seconds": 61.5, "device": "cpu", "precision": "bf16"}
    write(data / "timings" / f"train-{name}.json", trained | speed)
    rate = {"filled_per_second" if pseudo else "tokens_per_second": 12345.6 + number}
    write(
        data / "timings" / f"generate-{name}.json",
        {"fp32": {"bundle_sha256": sha((bundle / "bundle.json").read_bytes()), **rate}},
    )


def write_lock(root: Path, variants: Sequence[str] | None = None) -> None:
    """Write dvc.lock as if the stages of these variants had just run; None: of all."""
    params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8"))
    old = yaml.safe_load((root / "dvc.lock").read_text(encoding="utf-8"))["stages"] if variants is not None else {}

    def files(*paths: str) -> list[dict[str, Any]]:
        return [{"path": path, "hash": "md5", "md5": md5_of(root / path)} for path in paths if (root / path).exists()]

    def stage(settings: dict[str, Any], deps: Sequence[str], *outs: str) -> dict[str, Any]:
        return {"params": {"params.yaml": settings}, "deps": files(*deps), "outs": files(*outs)}

    corpus, tokens = "data/corpus", "data/tokens"
    stages: dict[str, Any] = {
        "report": {"cmd": "python pipelines/report.py"},
        "fetch": stage({"fetch": params["fetch"]}, (), corpus),
        "tokenize": stage({"tokenize": params["tokenize"]}, (corpus,), tokens),
    }
    for name in params["variants"] if variants is None else variants:
        model, scores, bundles = f"data/models/{name}", f"data/metrics/{name}.json", f"data/onnx/{name}"
        trained = {"train.seed": params["train"]["seed"], f"variants.{name}": params["variants"][name]}
        measured = [f"data/metrics/{part}/{name}.json" for part in ("perplexity", "diagnostics", "samples")]
        stages |= {
            f"train@{name}": stage(trained, (tokens,), model),
            f"evaluate@{name}": stage({"evaluate": params["evaluate"]}, (tokens, model), scores),
            f"export@{name}": stage({"export": params["export"]}, (tokens, model)),
            f"verify@{name}": stage({"verify": params["verify"]}, (tokens, model, scores), bundles),
            f"diagnose@{name}": stage({"diagnose": params["diagnose"]}, (corpus, tokens, model), *measured),
        }
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": old | stages}), encoding="utf-8")


def tiny_graph() -> onnx.ModelProto:
    """The inputs of a generator, a scalar and one with a default among them; it answers with the prompt."""
    integer, real = TensorProto.INT64, TensorProto.FLOAT
    inputs = [
        helper.make_tensor_value_info("prompt", integer, ["batch", "time"]),
        helper.make_tensor_value_info("max_new_tokens", integer, []),
        helper.make_tensor_value_info("temperature", real, ["batch"]),
        helper.make_tensor_value_info("state.h", real, ["batch", 8]),
    ]
    outputs = [
        helper.make_tensor_value_info("tokens", integer, ["batch", "time"]),
        helper.make_tensor_value_info("next_state.h", real, ["batch", 8]),
    ]
    nodes = [helper.make_node("Add", ["prompt", "max_new_tokens"], ["tokens"])]
    nodes += [helper.make_node("Unsqueeze", ["temperature", "axis"], ["column"])]
    nodes += [helper.make_node("Add", ["state.h", "column"], ["next_state.h"])]
    defaults = [
        numpy_helper.from_array(np.zeros((1, 8), np.float32), "state.h"),
        numpy_helper.from_array(np.array([1]), "axis"),
    ]
    graph = helper.make_graph(nodes, "tiny", inputs, outputs, defaults)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def sha(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def write(path: Path, content: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def write_diagnosis(data: Path, name: str) -> None:
    """The files of stage diagnose for a variant, with made-up numbers and texts that look like markup."""
    cloze = name.startswith("bi")
    pseudo = "pseudo_" if cloze else ""
    head = {"variant": name, "objective": "cloze" if cloze else "causal"}
    static = scored(pseudo, 4.0)
    bins = [
        {
            "from": low,
            "to": high,
            "fraction": 0.5,
            f"{pseudo}nats_per_token": 4.0,
            "interval_over_windows": [3.0, 5.0],
        }
        for low, high in ((1, 1), (2, 8))
    ]
    adaptive = {"static_on_the_same_tokens": scored(pseudo, 4.5), "gain_nats_per_token": 0.5}
    adaptive |= {"gain_interval_over_windows": [0.25, 0.75]}
    perplexity = {
        "static": static,
        "cold_windows": scored(pseudo, 4.25) | {"window_tokens": 64},
        "neural_cache": None if cloze else scored(pseudo, 3.5) | adaptive,
        "dynamic_evaluation": None if cloze else scored(pseudo, 3.75) | adaptive | {"tokens": 20},
        "by_position": None if cloze else bins,
        "by_frequency": bins,
    }
    write(data / "metrics/perplexity" / f"{name}.json", head | perplexity)

    flow = {"k": [0, 1, 2, 20], "state_mean": [None, 2.0, 1.0, 0.5], "input_mean": [1.0, 0.5, 0.25, 0.0]}
    near = [
        {"k": k, f"{pseudo}nats_per_token": 4.0, "increase": 1 / k, "increase_interval": [0.0, 2.0]} for k in (1, 5, 20)
    ]
    points = [
        {"step": step, "tokens": 9, f"{pseudo}train_nats_per_token": 3.0, f"{pseudo}validation_nats_per_token": 4.0}
        for step in (5, 10)
    ]
    best = {f"{pseudo}best_validation_nats_per_token": 4.0, "best_at_step": 5}
    runs = [{"dropout": rate, "problem": None, "points": points, "gap": 1.0 - rate, **best} for rate in (0.0, 0.4)]
    gate = {"layer": "layer0", "gate": "forget", "mean": 0.5, "fraction_closed": 0.25, "fraction_open": 0.125}
    diagnostics = {
        "lesson": {
            "gates": 3,
            "parameters": 1234,
            "state_size": 32,
            "hidden_size": 8,
            "layers": 2,
            "output_size": 16 if cloze else 8,
            "effective_context_tokens": 5,
            "gradient_vanished_at_before_training": 7,
            "gradient_vanished_at_after_training": None,
        },
        "gradients": {
            "sides": 2 if cloze else 1,
            "before_training": flow | {"vanished_at": 7},
            "after_training": flow | {"vanished_at": None},
        },
        "context": {
            "context_tokens": 64,
            f"{pseudo}whole_nats_per_token": 3.875,
            "cut": near,
            "shuffled_beyond": near[1:],
            "dropped_beyond": near[1:],
            "tolerance_nats": 0.05,
            "effective_context_tokens": 5,
        },
        "gates": {
            "reported": True,
            "closed_below": 0.1,
            "open_above": 0.9,
            "rows": [gate | {"units_always_closed": 0.0, "units_always_open": 0.0}],
        },
        "overfitting": {
            "short_runs": {
                "model": {"hidden_size": 8},
                "train_tokens": 100,
                "validation_tokens": 50,
                "epochs": 2.0,
                "runs": runs,
            }
        },
    }
    write(data / "metrics/diagnostics" / f"{name}.json", head | diagnostics)

    text = {"prompt": "<b>KING", "text": "</script><script>alert(1)</script>"}
    parts = {"parts": [{"text": "<i>to be ", "filled": False}, {"text": "</pre>", "filled": True}]}
    quality = {"real_word_fraction": 0.5}
    quality |= {} if cloze else {"distinct_2": 0.75, "longest_copied_words": 4, "mean_longest_copied_words": 2.5}
    temperatures = [{"temperature": each, **quality, "texts": [parts if cloze else text] * 2} for each in (0.5, 1.0)]
    write(data / "metrics/samples" / f"{name}.json", head | {"temperatures": temperatures, "held_out_text": quality})

    weights = (data / "models" / name / "model.safetensors").read_bytes()
    rows = [{"tokens": tokens, "rows": 1, "seconds": tokens / 100} for tokens in (4, 16)]
    speed = {"device": "cpu", "precision_of_training": "bf16", "training_step": rows, "training_growth": 1.0}
    speed |= {"generation": [] if cloze else rows, "generation_growth": None if cloze else 1.0}
    write(data / "timings" / f"length-{name}.json", {"model_sha256": sha(weights)} | speed)


def scored(pseudo: str, loss: float) -> dict[str, Any]:
    """Perplexities in the shape that stage diagnose writes."""
    perplexity = float(np.exp(loss))
    return {
        f"{pseudo}perplexity_per_token": perplexity,
        f"{pseudo}perplexity_per_word": perplexity * 2,
        f"{pseudo}bits_per_byte": loss / 2,
        f"{pseudo}bits_per_character": loss / 2,
        "tokens": 40,
        "out_of_vocabulary_rate": 0.0,
        "intervals_over_windows": {f"{pseudo}perplexity_per_token": [perplexity - 1, perplexity + 1]},
    }
