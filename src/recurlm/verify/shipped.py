"""Check the folder that ships: what bundle.json and the tokenizer say is what the model and data/tokens say."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from tokenizers import Tokenizer

from recurlm.config import Export, Precision
from recurlm.export.bundle import FORMAT, never_drawn
from recurlm.export.provenance import sampling_defaults
from recurlm.export.quantize import ACTIVATIONS, count_products
from recurlm.model import LanguageModel
from recurlm.objective import objective_of
from recurlm.runtime.bundle import Description
from recurlm.runtime.tokenizer import Vocabulary
from recurlm.storage import read_json
from recurlm.tokens.files import TokenFile
from recurlm.tokens.special import special_ids
from recurlm.tokens.tokenizer import load_tokenizer
from recurlm.verify.checks import VerificationError

MOST_TOKENS = 20_000  # of the held-out text that both tokenizers read


def check_bundle(
    folder: Path,
    variant: str,
    precision: Precision,
    model: LanguageModel,
    held_out: TokenFile,
    tokenizer: Path,
    settings: Export,
    facts: dict[str, Any],
) -> None:
    """Compare a bundle with all that it was made from; the graphs themselves are `verify`'s.

    Args:
        tokenizer: tokenizer.json of data/tokens.
        facts: what bundle.json tells beyond that: parameters, metrics, verification.

    Raises:
        VerificationError: something is said that is not so.
        InputError: the runtime would refuse the bundle.
    """
    manifest = held_out.manifest
    trained = load_tokenizer(tokenizer, manifest["tokenizer_sha256"])
    same_tokenizer(folder / "tokenizer.json", tokenizer, held_out)
    expected = described(variant, precision, model, manifest, settings) | facts
    expected["special"] = special_ids(trained)
    same_description(read_json(folder / "bundle.json"), expected)
    description = Description.read(folder)
    description.check_files()
    names = {"tokenizer.json", *objective_of(model).graphs}
    if set(description.files) != names:
        raise VerificationError(f"bundle.json names {sorted(description.files)}, and the bundle is {sorted(names)}")
    same_metadata(folder, expected)
    Vocabulary.load(folder / "tokenizer.json", description.tokenizer_kind, description.special, description.vocab_size)


def described(
    variant: str, precision: Precision, model: LanguageModel, manifest: dict[str, Any], settings: Export
) -> dict[str, Any]:
    """What a bundle's description follows from."""
    objective = objective_of(model)
    return {
        "format": FORMAT,
        "variant": variant,
        "objective": objective.name,
        "precision": precision,
        "vocab_size": model.vocab_size,
        "tokenizer_sha256": manifest["tokenizer_sha256"],
        "tokenizer_kind": manifest["kind"],
        "special": manifest["special"],
        "suppressed_tokens": never_drawn(manifest["special"], objective),
        "state_spec": {name: list(shape) for name, shape in model.recurrence.state_spec.items()},
        "directions": objective.state_names(model.recurrence),
        "opset": settings.opset,
        "ir_version": settings.ir_version,
        "corpus": manifest["corpus"],
        "sampling_defaults": sampling_defaults(objective.name),
    }


def same_description(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Compare bundle.json, key by key, with what it must say.

    Raises:
        VerificationError: a value is another, or missing.
    """
    for key, value in expected.items():
        value = json.loads(json.dumps(value))  # as JSON has it: lists in place of tuples
        if key not in found or found[key] != value or list_of_keys(found[key]) != list_of_keys(value):
            shown = json.dumps(found.get(key))
            raise VerificationError(f"bundle.json: '{key}' is {shown[:80]}, and should be {json.dumps(value)[:80]}")


def list_of_keys(value: Any) -> list[str]:
    """The keys of an object in their order, which tells the order of the states."""
    return list(value) if isinstance(value, dict) else []


def same_metadata(folder: Path, expected: dict[str, Any]) -> None:
    """Compare what the graphs say of themselves, and the products that are in them, with the description.

    Raises:
        VerificationError: they differ.
    """
    wanted = {key: expected[key] for key in ("variant", "tokenizer_sha256")}
    wanted["states"] = json.dumps(list(expected["state_spec"]))
    products: Counter[str] = Counter()
    for path in sorted(folder.glob("*.onnx")):
        proto = onnx.load(path)
        metadata = {entry.key: entry.value for entry in proto.metadata_props}
        if metadata != wanted:
            raise VerificationError(f"{path.name} says that it is {metadata}, and should say {wanted}")
        products.update(count_products(proto.graph))
    counted = {kind: count for kind, count in products.items() if count}
    products = read_json(folder / "bundle.json").get("products")
    if products != counted:
        raise VerificationError(f"bundle.json tells of products {products}, and the graphs have {counted}")
    if unexpected := counted.keys() - {expected["precision"], ACTIVATIONS}:
        raise VerificationError(f"the graphs have products in {', '.join(sorted(unexpected))}")


def same_tokenizer(path: Path, trained: Path, held_out: TokenFile) -> None:
    """Compare a bundle's tokenizer with the one of data/tokens: on held-out text both ways, then byte by byte.

    Raises:
        VerificationError: one token has another text, one text other tokens, or a byte differs.
    """
    found, wanted = Tokenizer.from_file(str(path)), Tokenizer.from_file(str(trained))
    if found.get_vocab() != wanted.get_vocab():
        differ = set(found.get_vocab().items()) ^ set(wanted.get_vocab().items())
        raise VerificationError(f"tokenizer.json has other tokens than data/tokens: {sorted(differ)[:4]}")
    ids = np.asarray(held_out.ids[:MOST_TOKENS], np.int64).tolist()
    text = wanted.decode(ids, skip_special_tokens=False)
    if found.decode(ids, skip_special_tokens=False) != text:
        raise VerificationError("tokenizer.json decodes held-out tokens to another text")
    for sample in (text, text.upper(), f" {text[:100]}\n\n\t{text[:100]} "):
        if found.encode(sample).ids != wanted.encode(sample).ids:
            raise VerificationError("tokenizer.json encodes held-out text to other tokens")
    if path.read_bytes() != trained.read_bytes():
        raise VerificationError("tokenizer.json has other bytes than that of data/tokens")
