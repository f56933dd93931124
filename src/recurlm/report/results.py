"""What the stages left in data/, one `Result` a variant; what is missing is None, and the pages say so."""

from __future__ import annotations

import csv
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recurlm.config import Params
from recurlm.errors import InputError
from recurlm.report.fingerprint import locked_stages
from recurlm.storage import read_json, sha256_of

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Point:
    """One row of a learning curve: losses in nats per token."""

    step: int
    tokens: int
    train_loss: float | None
    validation_loss: float | None
    learning_rate: float | None
    seconds: float | None = None  # of training until then on this machine, if it trained this very model


@dataclass(frozen=True)
class Shipped:
    """A variant in one precision."""

    precision: str
    folder: Path
    proof: Numbers | None  # its part of data/metrics/proof/<variant>.json
    bundle: Numbers | None  # bundle.json
    generation: Numbers | None  # timings of this machine, if they are of this very bundle


# What stage diagnose writes, by the name that this package has for it.
DIAGNOSED = {
    "perplexity": "data/metrics/perplexity/{}.json",
    "diagnostics": "data/metrics/diagnostics/{}.json",
    "samples": "data/metrics/samples/{}.json",
    "timings": "data/timings/diagnose-{}.json",
}


@dataclass(frozen=True)
class Diagnosis:
    """What stage diagnose left of a variant: a file that is not there, or not whole, costs its own place only."""

    found: dict[str, Numbers]  # key of `DIAGNOSED` → the file's content
    problems: dict[str, str]  # key of `DIAGNOSED` → why there is none


@dataclass(frozen=True)
class Result:
    """One variant: what it is, how it learned, how good it is, and what shows that its ONNX files are the model."""

    name: str
    block: Numbers  # of params.yaml, as it was when the model was trained
    settings: Numbers  # the sections that the model was made with: fetch, tokenize, train
    model: Numbers  # model.json
    curve: tuple[Point, ...]
    metrics: Numbers | None  # data/metrics/<variant>.json
    shipped: tuple[Shipped, ...]  # the most exact first
    locked: dict[str, str]  # path of a stage's out → its md5 in dvc.lock
    training: Numbers | None  # timings of this machine, if they are of this very model
    diagnosis: Diagnosis = field(default_factory=lambda: Diagnosis({}, {}))

    @property
    def proof(self) -> Numbers | None:
        """That of the most exact bundle, as the three below."""
        return self.shipped[0].proof

    @property
    def bundle(self) -> Numbers | None:
        return self.shipped[0].bundle

    @property
    def bundle_folder(self) -> Path:
        return self.shipped[0].folder

    @property
    def generation(self) -> Numbers | None:
        return self.shipped[0].generation

    @property
    def causal(self) -> bool:
        """Whether the variant reads from left to right; a cloze model's numbers are pseudo-numbers."""
        if self.metrics:
            return bool(self.metrics.get("protocol") != "cloze")
        return not self.bundle or self.bundle.get("causal") is not False

    @property
    def proven(self) -> bool:
        """Whether each of its bundles is."""
        return all(one.proof is not None and one.proof.get("passed") is True for one in self.shipped)

    @property
    def parameters(self) -> int | None:
        return self.model.get("parameters") or (self.metrics or {}).get("parameters")

    @property
    def bundle_bytes(self) -> int | None:
        return (self.proof or {}).get("bundle_bytes")

    @property
    def complete(self) -> bool:
        """Whether all stages have run: only then is there a result to remember."""
        return bool(self.metrics and self.bundle and self.proven)

    @property
    def key(self) -> str:
        """What makes this result this result: the hashes of its parts and the parameters that it was made with."""
        parts = [self.name, self.block, self.settings, self.metrics]
        parts += [part for one in self.shipped for part in (one.precision, one.proof, one.bundle)]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Results:
    params: Params
    corpus: Numbers | None  # data/corpus/manifest.json
    tokens: Numbers | None  # data/tokens/manifest.json
    variants: tuple[Result, ...]


def gather(root: Path, params: Params) -> Results:
    """Read what is there.

    Raises:
        InputError: a file is there and cannot be read.
    """
    stages = locked_stages(root)
    return Results(
        params=params,
        corpus=_read(root / "data/corpus/manifest.json"),
        tokens=_read(root / "data/tokens/manifest.json"),
        variants=tuple(_result(root / "data", name, params, stages) for name in params.variants),
    )


def _result(data: Path, name: str, params: Params, stages: Numbers) -> Result:
    model = _read(data / "models" / name / "model.json") or {}
    precisions = sorted(params.export.precisions, key=("fp32", "int8", "int4").index)
    weights = data / "models" / name / "model.safetensors"
    training = _of_this(_read(data / "timings" / f"train-{name}.json"), "model_sha256", weights)
    proofs = _read(data / "metrics" / "proof" / f"{name}.json") or {}
    return Result(
        name=name,
        block=model.get("block") or params.variants[name].model_dump(),
        settings=_settings(name, params, stages),
        model=model,
        curve=_read_curve(data / "models" / name / "curve.csv", training),
        metrics=_read(data / "metrics" / f"{name}.json"),
        shipped=tuple(_shipped(data, name, precision, proofs) for precision in precisions),
        locked=_locked_outs(name, stages),
        training=training,
        diagnosis=_diagnosis(data.parent, name, weights),
    )


def _diagnosis(root: Path, name: str, weights: Path) -> Diagnosis:
    found, problems = {}, {}
    for part, path in DIAGNOSED.items():
        try:
            content = _read(root / path.format(name))
        except InputError as error:
            problems[part] = str(error).removeprefix(f"{root}/")
            continue
        if content is not None and part == "timings":
            content = _of_this(content, "model_sha256", weights)
        if content is None:
            problems[part] = f"{path.format(name)} is missing" + (" or of another model" if part == "timings" else "")
        else:
            found[part] = content
    return Diagnosis(found, problems)


def _shipped(data: Path, name: str, precision: str, proofs: Numbers) -> Shipped:
    folder = data / "onnx" / name / precision
    timings = (_read(data / "timings" / f"generate-{name}.json") or {}).get(precision)
    return Shipped(
        precision=precision,
        folder=folder,
        proof=proofs.get(precision),
        bundle=_read(folder / "bundle.json"),
        generation=_of_this(timings, "bundle_sha256", folder / "bundle.json"),
    )


def _read(path: Path) -> Numbers | None:
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object: make it again")
    return content


def _read_curve(path: Path, training: Numbers | None) -> tuple[Point, ...]:
    if not path.is_file():
        return ()
    seconds = {point["step"]: point["seconds"] for point in (training or {}).get("points", ())}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def number(row: dict[str, str], key: str) -> float | None:
        return float(row[key]) if row.get(key) else None

    try:
        return tuple(
            Point(
                step=int(row["step"]),
                tokens=int(row["tokens"]),
                train_loss=number(row, "train_loss"),
                validation_loss=number(row, "validation_loss"),
                learning_rate=number(row, "learning_rate"),
                seconds=seconds.get(int(row["step"])),
            )
            for row in rows
        )
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: not a learning curve ({error}): make it again") from None


def _of_this(timing: Numbers | None, key: str, measured: Path) -> Numbers | None:
    """A measurement counts only for the file that it was made of: another machine's or model's is left out."""
    if timing is None or not measured.is_file() or timing.get(key) != sha256_of(measured):
        return None
    return timing


def _settings(name: str, params: Params, stages: Numbers) -> Numbers:
    """The sections that led to the model, as DVC noted them when it ran; without DVC, as params.yaml has them now."""
    now = params.model_dump()
    sections = {}
    for section, stage in (("fetch", "fetch"), ("tokenize", "tokenize"), ("train", f"train@{name}")):
        noted = stages.get(stage, {}).get("params", {}).get("params.yaml", {})
        sections[section] = now[section] | noted.get(section, {})
    source = sections["fetch"]["source"]
    sections["fetch"] = {"source": source, source: sections["fetch"][source]}  # the other sources had no part in it
    return sections


def _locked_outs(name: str, stages: Numbers) -> dict[str, str]:
    return {
        out["path"]: out["md5"]
        for stage in (f"train@{name}", f"verify@{name}")
        for out in stages.get(stage, {}).get("outs", ())
        if "md5" in out
    }
