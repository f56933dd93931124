"""The outputs of all stages, one `Result` per variant; what is missing is empty, and the page names it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from recurlm.config import Params
from recurlm.errors import InputError
from recurlm.report.lock import MAKES_A_DIAGNOSIS, Lock
from recurlm.storage import read_json, sha256_of

JsonObject = dict[str, Any]
CURVE = {"step": int, "tokens": int, "train_loss": float, "validation_loss": float, "learning_rate": float}
# The files of stage diagnose.
DIAGNOSTIC_FILES = {
    "perplexity": "data/metrics/perplexity/{}.json",
    "diagnostics": "data/metrics/diagnostics/{}.json",
    "samples": "data/metrics/samples/{}.json",
    "timings": "data/timings/length-{}.json",
}


@dataclass(frozen=True)
class Objective:
    """A training objective: how its metrics are named, and what captions and columns call them."""

    name: str  # "objective" in data/metrics and bundle.json
    protocol: str  # "protocol" in data/metrics/<variant>.json
    metric_prefix: str  # of the names of losses and perplexities
    label: str
    verb: str  # what a model of this objective does with a prompt
    task: str  # the ONNX graph that does it, without `.onnx`
    rate: str  # its speed in data/timings/generate-<variant>.json
    context_side: str  # where the k tokens of a cut context stand

    @property
    def pseudo(self) -> bool:
        """Whether its scores are pseudo-likelihoods, which compare only with one another."""
        return bool(self.metric_prefix)

    def metric(self, name: str) -> str:
        """The key of a metric: `perplexity_per_token` or `pseudo_perplexity_per_token`."""
        return f"{self.metric_prefix}{name}"

    def unit(self, name: str) -> str:
        """The same for a reader: `nats` or `pseudo-nats`."""
        return f"{self.metric_prefix.replace('_', '-')}{name}"

    def caption(self, text: str) -> str:
        """A chart's caption, marked where the scale is one of pseudo-likelihoods."""
        return f"{text} ({self.label})" if self.pseudo else text


CAUSAL = Objective("causal", "streamed", "", "left to right", "generates", "generator", "tokens_per_second", "")
CLOZE = Objective("cloze", "cloze", "pseudo_", "cloze", "fills", "filler", "filled_per_second", " on either side")
OBJECTIVES = (CAUSAL, CLOZE)


@dataclass(frozen=True)
class BundleResult:
    """The exported bundle of a variant in one precision."""

    precision: str
    folder: Path
    verification: JsonObject  # its part of data/metrics/verification/<variant>.json
    description: JsonObject  # bundle.json
    timings: JsonObject  # of generation on this machine, if they are of this very bundle

    @property
    def verified(self) -> bool:
        return self.verification.get("verified") is True

    @property
    def key(self) -> str:
        """The sha256 of bundle.json, which holds those of all its files."""
        return sha256_of(self.folder / "bundle.json")


@dataclass(frozen=True)
class Diagnosis:
    """The files that stage diagnose wrote for a variant; one that is missing or damaged leaves a gap of its own."""

    files: dict[str, JsonObject]  # key of `DIAGNOSTIC_FILES` → the file's content
    problems: dict[str, str]  # key of `DIAGNOSTIC_FILES` → why there is none
    stale: str | None  # why they are not of the present model, corpus and parameters


@dataclass(frozen=True)
class Result:
    """One variant: its configuration, learning curves, metrics, bundles and timings."""

    name: str
    model_config: JsonObject  # its configuration when the model was trained
    settings: JsonObject  # the sections fetch, tokenize and train when the model was trained
    model: JsonObject  # model.json
    curve: pd.DataFrame  # `CURVE`, and seconds if this machine trained it: the loss of the whole validation split
    log: pd.DataFrame  # many more rows, some of them with the loss of a sample of the validation split
    metrics: JsonObject  # data/metrics/<variant>.json
    bundles: tuple[BundleResult, ...]  # fp32 first
    locked: dict[str, str]  # path of a stage's out → its md5 in dvc.lock
    stale: str | None  # why it does not belong to the present parameters, corpus and tokens, or its parts together
    training_timings: JsonObject  # of this machine, if they are of this very model
    diagnosis: Diagnosis

    @property
    def bundle(self) -> BundleResult:
        """The first bundle, the one of highest precision."""
        return self.bundles[0]

    @property
    def objective(self) -> Objective:
        """The objective by the metrics' protocol, or by the bundle where there are no metrics yet."""
        if self.metrics:
            return CLOZE if self.metrics.get("protocol") == CLOZE.protocol else CAUSAL
        return CLOZE if self.bundle.description.get("objective") == CLOZE.name else CAUSAL

    @property
    def parameters(self) -> int | None:
        return self.model.get("parameters") or self.metrics.get("parameters")

    @property
    def made(self) -> bool:
        """Whether there are scores and a bundle, of whichever run."""
        return bool(self.metrics and self.bundle.description)

    @property
    def complete(self) -> bool:
        """Whether all stages have run, on the present corpus and parameters; only then is the result logged."""
        return self.made and all(bundle.verified for bundle in self.bundles) and not self.stale

    @property
    def key(self) -> str:
        """A hash of the parameters, and of DVC's hashes of the model, its scores and its bundles."""
        parts = [self.name, self.model_config, self.settings, self.locked]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def validation_bits(self) -> float | None:
        """(Pseudo-)bits per byte on the validation split, by which models of one objective compare."""
        value = (self.metrics.get("validation") or {}).get(self.objective.metric("bits_per_byte"))
        return None if value is None else float(value)


@dataclass(frozen=True)
class Results:
    params: Params
    corpus: JsonObject  # data/corpus/manifest.json
    tokens: JsonObject  # data/tokens/manifest.json
    variants: tuple[Result, ...]


def best(results: Iterable[Result]) -> Result | None:
    """The left-to-right model with the fewest bits per byte on the validation split; of equals, the first."""
    scored = [each for each in results if not each.objective.pseudo and each.validation_bits is not None]
    return min(scored, key=lambda result: result.validation_bits or 0.0, default=None)


def load_results(root: Path, params: Params) -> Results:
    """The outputs of all stages under `root`.

    Raises:
        InputError: a file is there and cannot be read.
    """
    lock = Lock(root)
    return Results(
        params=params,
        corpus=read_object(root / "data/corpus/manifest.json"),
        tokens=read_object(root / "data/tokens/manifest.json"),
        variants=tuple(_result(root / "data", name, params, lock) for name in params.variants),
    )


def _result(data: Path, name: str, params: Params, lock: Lock) -> Result:
    trained = data / "models" / name
    model, weights = read_object(trained / "model.json"), trained / "model.safetensors"
    training = _matching(read_object(data / f"timings/train-{name}.json"), "model_sha256", weights)
    verifications = read_object(data / f"metrics/verification/{name}.json")
    speeds = read_object(data / f"timings/generate-{name}.json")
    bundles = tuple(
        BundleResult(
            precision,
            folder := data / "onnx" / name / precision,
            verifications.get(precision, {}),
            read_object(folder / "bundle.json"),
            _matching(speeds.get(precision, {}), "bundle_sha256", folder / "bundle.json"),
        )
        for precision in sorted(params.export.precisions, key=("fp32", "int8", "int4").index)
    )
    stages = [f"{stage}@{name}" for stage in ("train", "evaluate", "verify")]
    return Result(
        name=name,
        model_config=model.get("config") or params.variants[name].model_dump(),
        settings=_settings(name, params, lock.stages),
        model=model,
        curve=_read_curve(trained / "curve.csv", training),
        log=_read_curve(trained / "log.csv", training),
        metrics=read_object(data / f"metrics/{name}.json"),
        bundles=bundles,
        locked={path: md5 for stage in stages for path, md5 in lock.outs(stage).items()},
        stale=lock.stale(name) or _mismatch(bundles),
        training_timings=training,
        diagnosis=_diagnosis(data.parent, name, weights, lock),
    )


def _diagnosis(root: Path, name: str, weights: Path, lock: Lock) -> Diagnosis:
    files, problems = {}, {}
    for part, template in DIAGNOSTIC_FILES.items():
        path, timed = template.format(name), part == "timings"
        try:
            content = read_object(root / path)
        except InputError as error:
            problems[part] = str(error).removeprefix(f"{root}/")
            continue
        if content := _matching(content, "model_sha256", weights) if timed else content:
            files[part] = content
        else:
            problems[part] = f"{path} is missing{' or of another model' if timed else ''}"
    return Diagnosis(files, problems, lock.stale(name, MAKES_A_DIAGNOSIS))


def _mismatch(bundles: tuple[BundleResult, ...]) -> str | None:
    """Whether data/metrics/verification, which git alone keeps, is of other bundles than these, which repeat it."""
    for bundle in bundles:
        noted, kept = bundle.description.get("verification"), bundle.verification
        if noted and kept and noted != {key: value for key, value in kept.items() if key in noted}:
            return f"its verification is not that of its {bundle.precision} bundle"
    return None


def read_object(path: Path) -> JsonObject:
    """The JSON object of a file; an empty one where there is no file."""
    if not path.is_file():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: holds no JSON object: make it again")
    return content


def _read_curve(path: Path, training: JsonObject) -> pd.DataFrame:
    seconds = {point["step"]: point["seconds"] for point in training.get("points", ())}
    if not path.is_file():
        return pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in (CURVE | {"seconds": float}).items()})
    try:
        curve = pd.read_csv(path, usecols=[*CURVE], dtype=CURVE, float_precision="round_trip")
    except ValueError as error:
        raise InputError(f"{path}: not a learning curve ({error}): make it again") from None
    return curve.assign(seconds=curve["step"].map(seconds).astype(float))


def _matching(timings: JsonObject, key: str, measured: Path) -> JsonObject:
    """The timings if their sha256 is that of the measured file; none if they are of another file."""
    return timings if measured.is_file() and timings.get(key) == sha256_of(measured) else {}


def _settings(name: str, params: Params, stages: JsonObject) -> JsonObject:
    """The sections behind the model, as dvc.lock has them; without dvc.lock, as params.yaml has them now."""
    sections = params.model_dump(include={"fetch", "tokenize", "train"})
    for section, stage in (("fetch", "fetch"), ("tokenize", "tokenize"), ("train", f"train@{name}")):
        for key, value in stages.get(stage, {}).get("params", {}).get("params.yaml", {}).items():
            # A stage may depend on parts of a section: "train.data" and so on.
            first, _, part = key.partition(".")
            if first == section:
                sections[section] |= {part: value} if part else value
    source = sections["fetch"]["source"]
    sections["fetch"] = {"source": source, source: sections["fetch"][source]}  # the other sources were not used
    return sections
