"""compare/params.yaml, and what it makes of the variants of params.yaml and zoo.yaml."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator

import recurlm
from recurlm import config
from recurlm.config import Count, Evaluate, Fraction, ModelConfig, Params, Section, Seed, TrainConfig, override
from recurlm.errors import InputError, nearest
from recurlm.stage import DATA
from recurlm.storage import read_json, sha256_of, whole_folder, write_json
from recurlm.strict_yaml import first_misfit, load_yaml
from recurlm.training.checkpoint import run_key
from recurlm.variants import REGISTRY

FILE, ZOO = Path("compare/params.yaml"), Path("zoo.yaml")
OF_MODEL = ("muon_lr", "adamw_lr", "dropout")
OF_TRAIN = {"weight_decay": "optimizer.weight_decay", "state_reset_prob": "data.state_reset_prob"}
LOGARITHMIC = ("muon_lr", "adamw_lr", "weight_decay")
Range = tuple[float, float]


class Corpus(Section):
    path: str | None  # None: the corpus of params.yaml
    kind: Literal["char", "bpe", "word"] | None
    split: Literal["documents", "position"] | None


class Space(Section):
    """Where Optuna looks, from and to, the same for every variant."""

    muon_lr: Range
    adamw_lr: Range
    weight_decay: Range
    dropout: Range
    state_reset_prob: Range

    @field_validator("*")
    @classmethod
    def _rises(cls, bounds: Range) -> Range:
        if not 0 <= bounds[0] <= bounds[1]:
            raise ValueError("write [from, to], from 0 up")
        return bounds

    @field_validator("dropout", "state_reset_prob")
    @classmethod
    def _is_probability(cls, bounds: Range) -> Range:
        if not bounds[1] < 1:
            raise ValueError("a probability below 1")
        return bounds

    @model_validator(mode="after")
    def _logarithms_exist(self) -> Space:
        if zero := [name for name in LOGARITHMIC if getattr(self, name)[0] == 0]:
            raise ValueError(f"{zero[0]} is searched on a logarithmic scale: begin above 0")
        return self


class Tune(Section):
    trials: Count
    startup_trials: Count
    tokens: Count
    seed: Seed
    space: Space


class Train(Section):
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    tokens: Count
    num_evals: Count


class Score(Section):
    min_documents: Annotated[int, Field(ge=2)]
    resamples: Count
    confidence: Fraction
    seed: Seed


class Speed(Section):
    rounds: Count
    seconds: Annotated[float, Field(gt=0)]


class Compare(Section):
    name: Annotated[str, Field(pattern="^[a-z0-9][a-z0-9_-]*$")]
    variants: Annotated[tuple[str, ...], Field(min_length=1)]
    reference: str
    corpus: Corpus
    tune: Tune
    train: Train
    score: Score
    speed: Speed

    @property
    def folder(self) -> Path:
        return DATA / "compare" / self.name


@dataclass(frozen=True)
class Plan:
    """What trains and scores one variant, but for what is tuned."""

    variant: str
    model: ModelConfig
    train: TrainConfig
    evaluate: Evaluate
    sha256: str  # of its file, which also names the code that shapes the weights

    def configure(
        self, settings: dict[str, float], seed: int, epochs: float, evals: int
    ) -> tuple[ModelConfig, TrainConfig]:
        """The configurations of one run."""
        changes: dict[str, Any] = {OF_TRAIN[key]: value for key, value in settings.items() if key in OF_TRAIN}
        changes |= {"seed": seed, "data.epochs": epochs, "evaluation.num_evals": evals}
        own = {key: value for key, value in settings.items() if key in OF_MODEL}
        return override(self.model, own), override(self.train, changes)


def load(file: Path = FILE) -> Compare:
    """Read and check compare/params.yaml.

    Raises:
        InputError: the file is missing, or a value does not fit.
    """
    try:
        return Compare.model_validate(load_yaml(file))
    except FileNotFoundError:
        raise InputError(f"{file}: no such file: run this in the project's folder") from None
    except ValidationError as error:
        raise InputError(f"{FILE}: {first_misfit(error, Compare)}") from None


def with_corpus(params: Params, corpus: Corpus) -> Params:
    """params.yaml with the comparison's own text and tokenizer, if it names them."""
    changes: dict[str, Any] = {}
    if corpus.path is not None:
        changes |= {"source": "files", "files.path": corpus.path, "files.name": None, "files.licence": None}
        changes |= {"files.split": corpus.split or params.fetch.files.split}
    fetch = override(params.fetch, changes)
    tokenize = override(params.tokenize, {"kind": corpus.kind} if corpus.kind else {})
    return params.model_copy(update={"fetch": fetch, "tokenize": tokenize})


def write_plans(compare: Compare, params: Params) -> None:
    """Write the plan of each variant: later stages hang on their own variant's alone.

    Raises:
        InputError: a variant or the reference is unknown, or a variant predicts from both sides.
    """
    blocks = load_yaml(ZOO)["variants"] if ZOO.is_file() else {}
    known = {name: ModelConfig(**(params.model | block)) for name, block in blocks.items()} | params.variants
    # Neither what every run has of its own, nor what changes no result.
    own: dict[str, Any] = {
        "data": {"epochs", "state_reset_prob"},
        "evaluation": {"num_evals"},
        "optimizer": {"weight_decay"},
    }
    train = params.train.model_dump(exclude=own | dict.fromkeys(("seed", "init_from", "checkpoint", "machine"), True))
    if compare.reference not in known:
        raise InputError(f"{FILE}: reference is '{compare.reference}': {nearest(compare.reference, known)}")
    with whole_folder(compare.folder / "plan") as folder:
        for name in compare.variants:
            if name not in known:
                raise InputError(f"{FILE}: no variant '{name}': {nearest(name, known)}")
            if known[name].bidirectional:
                raise InputError(f"{FILE}: '{name}' predicts from both sides: its scores compare with no other's here")
            model = known[name].model_dump(exclude={*OF_MODEL})
            code = _code(known[name].cell)
            write_json(folder / f"{name}.json", {"model": model, "train": train, "code": code})


def _code(cell: str) -> str:
    package = Path(recurlm.__file__).parent
    if cell not in REGISTRY:
        raise InputError(f"no cell '{cell}': {nearest(cell, REGISTRY)}")
    text = (package / f"variants/{cell}.py").read_text(encoding="utf-8")
    shared = re.findall(r"^from recurlm\.variants\.(\w+) import", text, re.MULTILINE)
    names = {f"variants/{name}.py" for name in ("base", "compose", cell, *shared)}
    names |= {"training", "evaluation", "model.py", "objective.py"}
    files = [file for name in names for file in [package / name, *(package / name).rglob("*.py")] if file.is_file()]
    # By their places in the package: the same hash in every checkout.
    return run_key({file.relative_to(package).as_posix(): sha256_of(file) for file in files}, [])


def read_plan(compare: Compare, variant: str) -> Plan:
    """The plan that `write_plans` wrote.

    Raises:
        InputError: there is none.
    """
    path = compare.folder / "plan" / f"{variant}.json"
    raw = read_json(path)
    # What is tuned has a place in both; every run replaces it.
    model = ModelConfig(**(raw["model"] | {"muon_lr": 0.01, "adamw_lr": 0.01, "dropout": 0.0}))
    params = config.load()
    train = params.train.model_dump()
    for key, value in raw["train"].items():
        train[key] = train[key] | value if isinstance(value, dict) else value
    return Plan(variant, model, TrainConfig.model_validate(train), params.evaluate, sha256_of(path))


def project() -> tuple[Compare, Params]:
    """Both parameter files, the corpus of the comparison in its place."""
    compare = load()
    return compare, with_corpus(config.load(), compare.corpus)
