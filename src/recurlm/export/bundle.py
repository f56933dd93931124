"""The folder that ships: graphs, tokenizer, and bundle.json that names each file's hash and holds the verification."""

from __future__ import annotations

import inspect
import json
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from jaxtyping import Integer
from safetensors.numpy import save_file

from recurlm import __version__
from recurlm.config import Export, Precision
from recurlm.export.assemble import to_model
from recurlm.export.calibrate import quantizer_for
from recurlm.export.generator import GeneratorGraph
from recurlm.export.graphs import Builder, ExportCache
from recurlm.export.quantize import ACTIVATIONS, count_products
from recurlm.model import LanguageModel
from recurlm.objective import Objective, objective_of
from recurlm.runtime import Filler, Generator
from recurlm.storage import read_json, sha256_of, write_json, write_sealed_json

FORMAT = 3  # of bundle.json; a runtime refuses one that it does not know
QUANTIZED = "quantized.safetensors"
CODE = ("src", "pipelines", "params.yaml", "dvc.yaml")  # results that are in git change no bundle
SETTINGS = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}


def write_all(
    folder: Path,
    variant: str,
    model: LanguageModel,
    tokens: dict[str, Any],
    settings: Export,
    text: Integer[np.ndarray, "time"],
) -> Iterator[tuple[Precision, dict[str, int]]]:
    """`write_graphs` in every precision of `settings`, each in a folder of its name: (precision, products)."""
    cache = ExportCache()
    for precision in settings.precisions:
        (folder / precision).mkdir()
        yield precision, write_graphs(folder / precision, variant, model, tokens, settings, precision, text, cache)


def write_graphs(
    folder: Path,
    variant: str,
    model: LanguageModel,
    tokens: dict[str, Any],
    settings: Export,
    precision: Precision = "fp32",
    text: Integer[np.ndarray, "time"] | None = None,
    cache: ExportCache | None = None,
) -> dict[str, int]:
    """Write the graphs of a model into an existing folder, and `graphs.json` about them: a bundle not yet verified.

    With a precision below fp32 comes `quantized.safetensors`, which the verification needs and which does not ship.

    Args:
        tokens: the manifest of data/tokens, for the special tokens and the vocabulary's hash.
        text: of the train split, to calibrate on; needed below fp32.
        cache: from one precision to the next of the same model, settings and text.

    Returns:
        How many products the graphs compute in each precision.

    Raises:
        ValueError: a product with weights cannot be quantized.
    """
    cache = ExportCache() if cache is None else cache
    quantizer = quantizer_for(model, settings, precision, text, cache)
    description = describe(variant, precision, model, tokens, settings)
    metadata = {
        "variant": variant,
        "tokenizer_sha256": tokens["tokenizer_sha256"],
        "states": json.dumps(list(description["state_spec"])),
    }
    products: Counter[str] = Counter()
    for name, graph in graphs_of(Builder(model, description["suppressed_tokens"], settings, quantizer, cache)).items():
        counts = count_products(graph)
        if any(count for kind, count in counts.items() if kind not in (precision, ACTIVATIONS)):
            raise ValueError(f"{variant}: {name} was to be {precision} throughout, and has products {counts}")
        products.update(counts)
        proto = to_model(graph, settings.opset, settings.ir_version, metadata)
        (folder / name).write_bytes(proto.SerializeToString(deterministic=True))
    if quantizer is not None:
        save_file(quantizer.arithmetic, folder / QUANTIZED)
    description["products"] = {kind: count for kind, count in products.items() if count}
    write_json(folder / "graphs.json", description)
    return dict(products)


def describe(
    variant: str, precision: Precision, model: LanguageModel, tokens: dict[str, Any], settings: Export
) -> dict[str, Any]:
    """What graphs.json tells of the graphs of a model; their products are counted in them."""
    objective = objective_of(model)
    return {
        "format": FORMAT,
        "variant": variant,
        "objective": objective.name,
        "precision": precision,
        "products": {},
        "vocab_size": model.vocab_size,
        "tokenizer_sha256": tokens["tokenizer_sha256"],
        "tokenizer_kind": tokens["kind"],
        "special": tokens["special"],
        "suppressed_tokens": never_drawn(tokens["special"], objective),
        "state_spec": {name: list(shape) for name, shape in model.recurrence.state_spec.items()},
        "directions": objective.state_names(model.recurrence),
        "opset": settings.opset,
        "ir_version": settings.ir_version,
        "corpus": tokens["corpus"],
    }


def never_drawn(special: dict[str, int | None], objective: Objective) -> list[int]:
    """The ids of special tokens that are no text."""
    ids = (special[role] for role in objective.never_drawn)
    return sorted(token for token in ids if token is not None)


def write_bundle(folder: Path, graphs: Path, tokenizer: Path, facts: dict[str, Any]) -> None:
    """Write a verified bundle into an existing folder.

    Args:
        facts: what bundle.json tells beyond graphs.json: parameters, model_sha256, metrics, verification.
    """
    for source in [*sorted(graphs.glob("*.onnx")), tokenizer]:
        shutil.copyfile(source, folder / source.name)
    files = {file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size} for file in sorted(folder.iterdir())}
    description = read_json(graphs / "graphs.json")
    made = {"recurlm": made_by(), "sampling_defaults": sampling_defaults(description["objective"])}
    write_sealed_json(folder / "bundle.json", description | made | {"files": files} | facts)


def made_by() -> dict[str, Any]:
    """The version, the last commit of the code, and whether the code differs from it; None where git knows none."""
    commit = _git("log", "-1", "--format=%H", "--", *CODE)
    changes = _git("status", "--porcelain", "--", *CODE)
    return {"version": __version__, "commit": commit or None, "modified": bool(changes) if commit else None}


def sampling_defaults(objective: str) -> dict[str, float]:
    """The defaults of the runtime's `generate`, or of `fill` for a cloze model."""
    functions: dict[str, Callable[..., str]] = {"causal": Generator.generate, "cloze": Filler.fill}
    parameters = inspect.signature(functions[objective]).parameters
    return {name: each.default for name, each in parameters.items() if name in SETTINGS}


def _git(*arguments: str) -> str | None:
    """What git prints in the current folder; None without git or outside a repository."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def graphs_of(builder: Builder) -> dict[str, onnx.GraphProto]:
    """File name → graph, as the bundle of this kind of model holds them."""
    objective = objective_of(builder.model)
    makers = {
        "step.onnx": lambda: builder.gated_step,
        "scorer.onnx": builder.cloze_scorer if objective.both_sides else builder.scorer,
        "generator.onnx": lambda: GeneratorGraph(builder).proto(),
        "filler.onnx": builder.filler,
    }
    return {name: makers[name]() for name in objective.graphs}
