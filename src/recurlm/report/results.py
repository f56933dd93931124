"""The outputs of all stages, one `Result` per variant; what is missing is None, and the page names it."""

from __future__ import annotations

import csv
import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recurlm.config import Params
from recurlm.errors import InputError
from recurlm.report import objectives
from recurlm.report.lock import MAKES_A_DIAGNOSIS, Lock
from recurlm.report.objectives import Objective
from recurlm.storage import read_json, sha256_of

JsonObject = dict[str, Any]


@dataclass(frozen=True)
class CurvePoint:
    """One row of a learning curve or of a log: losses in nats per token."""

    step: int
    tokens: int
    train_loss: float | None
    validation_loss: float | None
    learning_rate: float | None
    seconds: float | None = None  # since training began, if this machine trained this very model


@dataclass(frozen=True)
class BundleResult:
    """The exported bundle of a variant in one precision."""

    precision: str
    folder: Path
    verification: JsonObject | None  # its part of data/metrics/verification/<variant>.json
    description: JsonObject | None  # bundle.json
    timings: JsonObject | None  # of generation on this machine, if they are of this very bundle

    @property
    def verified(self) -> bool:
        return (self.verification or {}).get("verified") is True


# The files of stage diagnose.
DIAGNOSTIC_FILES = {
    "perplexity": "data/metrics/perplexity/{}.json",
    "diagnostics": "data/metrics/diagnostics/{}.json",
    "samples": "data/metrics/samples/{}.json",
    "timings": "data/timings/length-{}.json",
}


@dataclass(frozen=True)
class Diagnosis:
    """The files that stage diagnose wrote for a variant; one that is missing or damaged leaves a gap of its own."""

    files: dict[str, JsonObject]  # key of `DIAGNOSTIC_FILES` → the file's content
    problems: dict[str, str]  # key of `DIAGNOSTIC_FILES` → why there is none
    stale: str | None = None  # why they are not of the present model, corpus and parameters


@dataclass(frozen=True)
class Result:
    """One variant: its configuration, learning curves, metrics, bundles and timings."""

    name: str
    model_config: JsonObject  # its configuration when the model was trained
    settings: JsonObject  # the sections fetch, tokenize and train when the model was trained
    model: JsonObject  # model.json
    curve: tuple[CurvePoint, ...]  # with the loss of the whole validation split
    log: tuple[CurvePoint, ...]  # many more points, some of them with the loss of a sample of the validation split
    metrics: JsonObject | None  # data/metrics/<variant>.json
    bundles: tuple[BundleResult, ...]  # fp32 first
    locked: dict[str, str]  # path of a stage's out → its md5 in dvc.lock
    stale: str | None  # why it does not belong to the present parameters, corpus and tokens, or its parts together
    training_timings: JsonObject | None  # of this machine, if they are of this very model
    diagnosis: Diagnosis = field(default_factory=lambda: Diagnosis({}, {}))

    @property
    def verification(self) -> JsonObject | None:
        """The verification of the first bundle, the one of highest precision."""
        return self.bundles[0].verification

    @property
    def bundle(self) -> JsonObject | None:
        return self.bundles[0].description

    @property
    def bundle_folder(self) -> Path:
        return self.bundles[0].folder

    @property
    def generation_timings(self) -> JsonObject | None:
        return self.bundles[0].timings

    @property
    def objective(self) -> Objective:
        """The objective by the metrics' protocol, or by the bundle where there are no metrics yet."""
        if self.metrics:
            return objectives.find(protocol=self.metrics.get("protocol"))
        return objectives.find((self.bundle or {}).get("objective"))

    @property
    def verified(self) -> bool:
        """Whether every bundle is."""
        return all(bundle.verified for bundle in self.bundles)

    @property
    def parameters(self) -> int | None:
        return self.model.get("parameters") or (self.metrics or {}).get("parameters")

    @property
    def bundle_bytes(self) -> int | None:
        return (self.verification or {}).get("bundle_bytes")

    @property
    def made(self) -> bool:
        """Whether there are scores and a bundle, of whichever run."""
        return bool(self.metrics and self.bundle)

    @property
    def complete(self) -> bool:
        """Whether all stages have run, on the present corpus and parameters; only then is the result logged."""
        return self.made and self.verified and not self.stale

    @property
    def key(self) -> str:
        """A hash of the parameters, and of DVC's hashes of the model, its scores and its bundles."""
        parts = [self.name, self.model_config, self.settings, self.locked]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Results:
    params: Params
    corpus: JsonObject | None  # data/corpus/manifest.json
    tokens: JsonObject | None  # data/tokens/manifest.json
    variants: tuple[Result, ...]


def load_results(root: Path, params: Params) -> Results:
    """The outputs of all stages under `root`.

    Raises:
        InputError: a file is there and cannot be read.
    """
    lock = Lock(root)
    return Results(
        params=params,
        corpus=_read(root / "data/corpus/manifest.json"),
        tokens=_read(root / "data/tokens/manifest.json"),
        variants=tuple(_result(root / "data", name, params, lock) for name in params.variants),
    )


def _result(data: Path, name: str, params: Params, lock: Lock) -> Result:
    model = _read(data / "models" / name / "model.json") or {}
    precisions = sorted(params.export.precisions, key=("fp32", "int8", "int4").index)
    weights = data / "models" / name / "model.safetensors"
    training = _matching(_read(data / "timings" / f"train-{name}.json"), "model_sha256", weights)
    verifications = _read(data / "metrics" / "verification" / f"{name}.json") or {}
    bundles = tuple(_bundle(data, name, precision, verifications) for precision in precisions)
    return Result(
        name=name,
        model_config=model.get("config") or params.variants[name].model_dump(),
        settings=_settings(name, params, lock.stages),
        model=model,
        curve=_read_curve(data / "models" / name / "curve.csv", training),
        log=_read_curve(data / "models" / name / "log.csv", training),
        metrics=_read(data / "metrics" / f"{name}.json"),
        bundles=bundles,
        locked={
            path: md5 for stage in ("train", "evaluate", "verify") for path, md5 in lock.outs(f"{stage}@{name}").items()
        },
        stale=lock.stale(name) or _mismatch(bundles),
        training_timings=training,
        diagnosis=_diagnosis(data.parent, name, weights, lock),
    )


def _diagnosis(root: Path, name: str, weights: Path, lock: Lock) -> Diagnosis:
    files, problems = {}, {}
    for part, path in DIAGNOSTIC_FILES.items():
        try:
            content = _read(root / path.format(name))
        except InputError as error:
            problems[part] = str(error).removeprefix(f"{root}/")
            continue
        if content is not None and part == "timings":
            content = _matching(content, "model_sha256", weights)
        if content is None:
            problems[part] = f"{path.format(name)} is missing" + (" or of another model" if part == "timings" else "")
        else:
            files[part] = content
    return Diagnosis(files, problems, lock.stale(name, MAKES_A_DIAGNOSIS))


def _bundle(data: Path, name: str, precision: str, verifications: JsonObject) -> BundleResult:
    folder = data / "onnx" / name / precision
    timings = (_read(data / "timings" / f"generate-{name}.json") or {}).get(precision)
    return BundleResult(
        precision=precision,
        folder=folder,
        verification=verifications.get(precision),
        description=_read(folder / "bundle.json"),
        timings=_matching(timings, "bundle_sha256", folder / "bundle.json"),
    )


def _mismatch(bundles: tuple[BundleResult, ...]) -> str | None:
    """Whether data/metrics/verification, which git alone keeps, is of other bundles than these, which repeat it."""
    for bundle in bundles:
        noted, kept = (bundle.description or {}).get("verification"), bundle.verification
        if noted and kept and noted != {key: value for key, value in kept.items() if key in noted}:
            return f"its verification is not that of its {bundle.precision} bundle"
    return None


def _read(path: Path) -> JsonObject | None:
    if not path.is_file():
        return None
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object: make it again")
    return content


def _read_curve(path: Path, training: JsonObject | None) -> tuple[CurvePoint, ...]:
    if not path.is_file():
        return ()
    seconds = {point["step"]: point["seconds"] for point in (training or {}).get("points", ())}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))

    def number(row: dict[str, str], key: str) -> float | None:
        return float(row[key]) if row.get(key) else None

    try:
        return tuple(
            CurvePoint(
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


def _matching(timings: JsonObject | None, key: str, measured: Path) -> JsonObject | None:
    """The timings if their sha256 is that of the measured file; None if they are of another file."""
    if timings is None or not measured.is_file() or timings.get(key) != sha256_of(measured):
        return None
    return timings


def _settings(name: str, params: Params, stages: JsonObject) -> JsonObject:
    """The sections behind the model, as dvc.lock has them; without dvc.lock, as params.yaml has them now."""
    current = params.model_dump()
    sections = {}
    for section, stage in (("fetch", "fetch"), ("tokenize", "tokenize"), ("train", f"train@{name}")):
        locked = stages.get(stage, {}).get("params", {}).get("params.yaml", {})
        sections[section] = current[section] | locked.get(section, {})
        # A stage that depends on parts of a section: "train.data" and so on.
        parts = {key.partition(".")[2]: value for key, value in locked.items() if key.startswith(f"{section}.")}
        sections[section] |= parts
    source = sections["fetch"]["source"]
    sections["fetch"] = {"source": source, source: sections["fetch"][source]}  # the other sources were not used
    return sections


def validation_bits(result: Result) -> float | None:
    """(Pseudo-)bits per byte on the validation split, by which models of one objective compare."""
    value = ((result.metrics or {}).get("validation") or {}).get(result.objective.metric("bits_per_byte"))
    return None if value is None else float(value)


def best(results: Iterable[Result]) -> Result | None:
    """The left-to-right model with the fewest bits per byte on the validation split; of equals, the first."""
    scored = [each for each in results if not each.objective.pseudo and validation_bits(each) is not None]
    return min(scored, key=lambda result: validation_bits(result) or 0.0, default=None)
