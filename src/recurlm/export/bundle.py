"""The folder that ships: graphs, tokenizer, and bundle.json that names each file's hash and holds the proof."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer
from safetensors.numpy import save_file

from recurlm.config import Export, Precision
from recurlm.export.assemble import to_model
from recurlm.export.graphs import Builder, Kept
from recurlm.export.precision import rounding_for
from recurlm.export.quantize import count_products
from recurlm.model import LanguageModel
from recurlm.storage import read_json, sha256_of, write_json, write_sealed_json

FORMAT = 3  # of bundle.json; a runtime refuses any other
ROUNDING = "rounding.safetensors"


def write_graphs(
    folder: Path,
    variant: str,
    model: LanguageModel,
    tokens: dict[str, Any],
    settings: Export,
    precision: Precision = "fp32",
    text: Integer[np.ndarray, "time"] | None = None,
    kept: Kept | None = None,
) -> dict[str, int]:
    """Write the graphs of a model into an existing folder, and `graphs.json` about them: a bundle not yet proven.

    With a precision below fp32 comes `rounding.safetensors`, which the proof needs and which does not ship.

    Args:
        tokens: the manifest of data/tokens, for the special tokens and the vocabulary's hash.
        text: of the train split, to calibrate on; needed below fp32.
        kept: from one precision to the next of the same model, settings and text.

    Returns:
        How many products the graphs compute in each precision.

    Raises:
        ValueError: some product would have stayed in fp32 without a word.
    """
    kept = Kept() if kept is None else kept
    rounding = None
    if precision != "fp32":
        if text is None:
            raise ValueError(f"{precision} needs text to calibrate on")
        rounding = rounding_for(model, settings, precision, text, kept)
    suppressed = never_drawn(tokens["special"], model.causal)
    state = {name: list(shape) for name, shape in model.recurrence.state_spec.items()}
    metadata = {
        "variant": variant,
        "tokenizer_sha256": tokens["tokenizer_sha256"],
        "states": json.dumps(list(state)),
    }
    products: Counter[str] = Counter()
    for name, graph in Builder(model, suppressed, settings, rounding, kept).graphs().items():
        counts = count_products(graph)
        if any(count for kind, count in counts.items() if kind != precision):
            raise ValueError(f"{variant}: {name} was to be {precision} throughout, and has products {counts}")
        products.update(counts)
        proto = to_model(graph, settings.opset, settings.ir_version, metadata)
        (folder / name).write_bytes(proto.SerializeToString(deterministic=True))
    if rounding is not None:
        save_file(rounding.arithmetic, folder / ROUNDING)
    description = {
        "format": FORMAT,
        "variant": variant,
        "objective": "causal" if model.causal else "cloze",
        "precision": precision,
        "portable": rounding is not None and settings.portable,
        "products": {kind: count for kind, count in products.items() if count},
        "vocab_size": model.vocab_size,
        "tokenizer_sha256": tokens["tokenizer_sha256"],
        "tokenizer_kind": tokens["kind"],
        "special": tokens["special"],
        "suppressed_tokens": suppressed,
        "state_spec": state,
        "opset": settings.opset,
        "ir_version": settings.ir_version,
        "corpus": tokens["corpus"],
    }
    write_json(folder / "graphs.json", description)
    return dict(products)


def never_drawn(special: dict[str, int | None], causal: bool) -> list[int]:
    """Special tokens that are no text. A generator may draw `<bos>`, which says that the text has ended."""
    names = ("mask", "unk") if causal else ("bos", "mask", "unk")
    found = (special[name] for name in names)
    return sorted(token for token in found if token is not None)


def write_bundle(folder: Path, graphs: Path, tokenizer: Path, facts: dict[str, Any]) -> None:
    """Write a proven bundle into an existing folder.

    Args:
        facts: what bundle.json tells beyond graphs.json: parameters, model_sha256, metrics, proof.
    """
    for source in [*sorted(graphs.glob("*.onnx")), tokenizer]:
        shutil.copyfile(source, folder / source.name)
    files = {file.name: {"sha256": sha256_of(file), "bytes": file.stat().st_size} for file in sorted(folder.iterdir())}
    write_sealed_json(folder / "bundle.json", read_json(graphs / "graphs.json") | {"files": files} | facts)
