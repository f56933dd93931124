"""Plant faults in copies of a bundle, one at a time, and see whether the checks catch each."""

from __future__ import annotations

import shutil
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from recurlm import model
from recurlm.config import Params, Precision
from recurlm.errors import InputError
from recurlm.export.bundle import write_bundle
from recurlm.model import LanguageModel
from recurlm.storage import read_json
from recurlm.tokens.files import TokenFile, open_tokens
from recurlm.verify.agreement import Verification, reference_of
from recurlm.verify.bundles import facts_of
from recurlm.verify.faults.catalogue import Fault, catalogue
from recurlm.verify.faults.files import renew_seals
from recurlm.verify.faults.graph_edits import NotHereError
from recurlm.verify.reference import Reference
from recurlm.verify.shipped import check_bundle


@dataclass(frozen=True)
class Subject:
    """A bundle without faults, and what it is verified against."""

    variant: str
    precision: Precision
    model: LanguageModel
    folder: Path  # the bundle; beside its files graphs.json, and what verification needs below fp32
    held_out: TokenFile
    tokenizer: Path  # of data/tokens
    metrics: dict[str, Any]  # of the evaluate stage, of the test split
    facts: dict[str, Any]
    params: Params

    @cached_property
    def reference(self) -> Reference:
        """PyTorch's side, which computes once what all faults are compared with."""
        return reference_of(self.model, self.folder, self.held_out.manifest)

    @cached_property
    def error(self) -> float | None:
        """Of the bundle's logits.

        Raises:
            VerificationError: the bundle itself fails.
        """
        verification = self._verification(self.folder, None)
        verification.run()
        self._check_files(self.folder)
        return verification.comparison.error

    def check(self, folder: Path, graph: str) -> None:
        """All checks that read one graph, or what is no graph.

        Raises:
            VerificationError: a check fails.
            InputError: the bundle cannot be read.
        """
        if graph:
            self._verification(folder, self.error).run({graph})
        self._check_files(folder)

    def _verification(self, folder: Path, error: float | None) -> Verification:
        settings, scoring = self.params.verify, self.params.evaluate
        return Verification(self.reference, folder, self.held_out, self.metrics, settings, scoring, error=error)

    def _check_files(self, folder: Path) -> None:
        export, facts = self.params.export, self.facts
        check_bundle(folder, self.variant, self.precision, self.model, self.held_out, self.tokenizer, export, facts)

    def faults(self) -> list[Fault]:
        """The catalogue for this bundle."""
        told = read_json(self.folder / "bundle.json")
        counts = torch.bincount(torch.as_tensor(self.held_out.ids.astype("int64")))
        counts[list(filter(None, told["special"].values()))] = 0
        return catalogue(told["objective"], self.precision, int(counts.argmax()), told["state_spec"])


@dataclass
class Outcome:
    """What became of the faults of one or more bundles."""

    caught: dict[str, str] = field(default_factory=dict)  # name → check
    missed: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)  # where the bundle has nothing of the kind

    def add(self, other: Outcome) -> None:
        """Count another bundle's faults as well."""
        self.caught |= other.caught
        self.missed += other.missed
        self.absent += other.absent

    def summary(self) -> dict[str, Any]:
        return {"planted": len(self.caught) + len(self.missed), "caught": len(self.caught), "missed": self.missed}


def plant_all(
    subject: Subject,
    outcome: Outcome,
    chosen: Callable[[str], bool] = lambda name: True,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Plant the chosen faults, one at a time; the bundle without a fault must pass.

    Raises:
        VerificationError: the bundle itself fails.
    """
    assert subject.error is None or subject.precision == "fp32"
    for fault in subject.faults():
        name = f"{subject.variant} {subject.precision}, {fault.name}"
        if not chosen(name):
            continue
        with tempfile.TemporaryDirectory() as parent:
            folder = shutil.copytree(subject.folder, Path(parent) / "bundle")
            try:
                fault.plant(folder)
            except NotHereError:
                outcome.absent.append(name)
                continue
            renew_seals(folder)
            try:
                subject.check(folder, fault.graph)
            except InputError as error:
                if "onnxruntime" in str(error) and "cannot run it" in str(error):
                    raise  # a graph that is none is no fault that anyone would miss
                outcome.caught[name] = line = f"{check_of(error)}: {error}".replace(f"{folder}/", "")
            else:
                outcome.missed.append(name)
                line = "MISSED"
        report(f"{name}: {line}")


def check_of(error: InputError) -> str:
    """The check that failed: what `Verification.run` or `check_bundle` had called."""
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    for outer in ("run", "check_bundle"):
        if outer in names:
            return names[min(names.index(outer) + 1, len(names) - 1)].strip("_")
    return names[-1]


def from_data(data: Path, variant: str, precision: Precision, params: Params, folder: Path) -> Subject:
    """A bundle of the pipeline, in a new folder.

    Raises:
        InputError: the pipeline has not made it.
    """
    graphs = data / "graphs" / variant / precision
    if not graphs.is_dir():
        raise InputError(f"{graphs}: not made yet: dvc repro, or --tiny for small random models")
    folder.mkdir(parents=True)
    metrics = read_json(data / "metrics" / f"{variant}.json")
    verified = read_json(data / "metrics" / "verification" / f"{variant}.json")[precision]
    facts, tokenizer = facts_of(variant, data, verified), data / "tokens" / "tokenizer.json"
    write_subject(folder, graphs, tokenizer, facts)
    trained, test = model.load(data / "models" / variant), open_tokens(data / "tokens", "test")
    return Subject(variant, precision, trained, folder, test, tokenizer, metrics["test"], facts, params)


def write_subject(folder: Path, graphs: Path, tokenizer: Path, facts: dict[str, Any]) -> None:
    """Write a bundle, and beside its files what verification reads."""
    write_bundle(folder, graphs, tokenizer, facts)
    for file in (graphs / "graphs.json", *graphs.glob("*.safetensors")):
        shutil.copy(file, folder)
