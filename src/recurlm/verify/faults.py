"""Plant faults in copies of bundles, one at a time, and see whether `verify` catches each.

    python -m recurlm.verify.faults                        all variants and precisions of params.yaml, from data/
    python -m recurlm.verify.faults lstm --precision int8
    python -m recurlm.verify.faults --tiny                 small models with random weights in place of data/

Prints a line a fault with the check that caught it. The last line is JSON: how many were planted and caught, and the
names of those that were missed; then the exit status is 1. A caught fault is no equivalent one: the same checks have
passed on the bundle without it, so it has changed what they read.
"""

from __future__ import annotations

import argparse
import json
import pickle
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from recurlm import config, model
from recurlm.config import Params, Precision, override
from recurlm.errors import InputError, exit_cleanly, nearest
from recurlm.export.bundle import write_bundle
from recurlm.model import LanguageModel
from recurlm.storage import read_json, write_json
from recurlm.tokens.files import TokenFile, open_tokens
from recurlm.verify import tiny
from recurlm.verify.agreement import reference_of, verify
from recurlm.verify.bundles import facts_of
from recurlm.verify.graph_edits import NotHereError
from recurlm.verify.planted import Fault, catalogue
from recurlm.verify.planted_files import renew_seals
from recurlm.verify.reference import Generated, Reference, Rows
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

    def check(self, folder: Path, reference: Reference) -> None:
        """All checks of a bundle.

        Raises:
            VerificationError: a check fails.
            InputError: the bundle cannot be read.
        """
        check_bundle(
            folder,
            self.variant,
            self.precision,
            self.model,
            self.held_out,
            self.tokenizer,
            self.params.export,
            self.facts,
        )
        verify(
            self.variant,
            self.model,
            folder,
            self.held_out,
            self.metrics,
            self.params.verify,
            self.params.evaluate,
            reference=reference,
        )

    def faults(self) -> list[Fault]:
        """The catalogue for this bundle."""
        told = read_json(self.folder / "bundle.json")
        counts = torch.bincount(torch.as_tensor(self.held_out.ids.astype("int64")))
        counts[list(filter(None, told["special"].values()))] = 0
        return catalogue(told["objective"], self.precision, int(counts.argmax()), told["state_spec"])


class Recorded(Reference):
    """PyTorch's side, computed once for all faults: they are in the bundle."""

    known: dict[bytes, Any]

    @classmethod
    def of(cls, reference: Reference) -> Recorded:
        recorded = cls.__new__(cls)
        recorded.__dict__.update(reference.__dict__, known={})
        return recorded

    def _once(self, name: str, compute: Callable[..., Any], *args: Any) -> Any:
        key = pickle.dumps((name, args))
        if key not in self.known:
            self.known[key] = compute(*args)
        return self.known[key]

    def step(self, token: Any, state: Any) -> Any:
        return self._once("step", super().step, token, state)

    def generate(self, prompts: Rows, *args: Any, **more: Any) -> Generated:
        compute = super().generate
        made: Generated = self._once("generate", lambda *_: compute(prompts, *args, **more), prompts, args, more)
        return made

    def logits(self, texts: Rows) -> Any:
        return self._once("logits", super().logits, texts)


@dataclass
class Outcome:
    """What became of the faults of one or more bundles."""

    caught: dict[str, str] = field(default_factory=dict)  # name → check
    missed: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)  # where the bundle has nothing of the kind

    def summary(self) -> dict[str, Any]:
        return {"planted": len(self.caught) + len(self.missed), "caught": len(self.caught), "missed": self.missed}


def plant_all(
    subject: Subject, outcome: Outcome, chosen: Callable[[str], bool] = lambda name: True, report: Any = None
) -> None:
    """Plant the chosen faults, one at a time; the bundle without a fault must pass.

    Raises:
        VerificationError: the bundle itself fails.
    """
    reference = Recorded.of(reference_of(subject.model, subject.folder, subject.held_out.manifest))
    subject.check(subject.folder, reference)
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
                subject.check(folder, reference)
            except InputError as error:
                if "onnxruntime" in str(error) and "cannot run it" in str(error):
                    raise  # a graph that is none is no fault that anyone would miss
                outcome.caught[name] = line = f"{check_of(error)}: {error}".replace(f"{folder}/", "")
            else:
                outcome.missed.append(name)
                line = "MISSED"
        if report:
            report(f"{name}: {line}")


def check_of(error: InputError) -> str:
    """The check that failed: the function that `verify` or `check_bundle` had called."""
    names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
    for outer in ("_edges", "_agreements", "verify", "check_bundle"):
        if outer in names:
            return names[min(names.index(outer) + 1, len(names) - 1)].strip("_")
    return names[-1]


def from_data(data: Path, variant: str, precision: Precision, params: Params, folder: Path) -> Subject:
    """A bundle of the pipeline, in an empty folder.

    Raises:
        InputError: the pipeline has not made it.
    """
    graphs = data / "graphs" / variant / precision
    if not graphs.is_dir():
        raise InputError(f"{graphs}: not made yet: dvc repro, or --tiny for small random models")
    metrics = read_json(data / "metrics" / f"{variant}.json")
    verified = read_json(data / "metrics" / "verification" / f"{variant}.json")[precision]
    facts, tokenizer = facts_of(variant, data, verified), data / "tokens" / "tokenizer.json"
    write_bundle(folder, graphs, tokenizer, facts)
    for file in (graphs / "graphs.json", *graphs.glob("*.safetensors")):
        shutil.copy(file, folder)
    trained, test = model.load(data / "models" / variant), open_tokens(data / "tokens", "test")
    return Subject(variant, precision, trained, folder, test, tokenizer, metrics["test"], facts, params)


def tiny_subjects(variant: str, precisions: Iterable[Precision], params: Params, root: Path) -> Iterator[Subject]:
    """Bundles of a small model with random weights, in a new folder of `root`."""
    made = tiny.make(root / variant, variant, params, tuple(precisions))
    small = params.model_copy(update={"evaluate": tiny.SCORING})
    for precision, folder in made.folders.items():
        yield Subject(
            variant, precision, made.model, folder, made.held_out, made.tokenizer, made.metrics, made.facts, small
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("variants", nargs="*", metavar="variant", help="of params.yaml; left out, all")
    parser.add_argument("--precision", action="append", choices=("fp32", "int8", "int4"), help="may be given again")
    parser.add_argument("--tiny", action="store_true", help="small models with random weights in place of data/")
    parser.add_argument("--num-tokens", type=int, help="in place of verify.num_tokens")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name contains it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the last line and each fault's check")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    params = config.load(Path("params.yaml"))
    if arguments.num_tokens:
        params = params.model_copy(update={"verify": override(params.verify, {"num_tokens": arguments.num_tokens})})
    for name in arguments.variants:
        if name not in params.variants:
            raise InputError(f"no variant '{name}': {nearest(name, params.variants)}")
    outcome, precisions = Outcome(), arguments.precision or list(params.export.precisions)
    with tempfile.TemporaryDirectory() as parent:
        for variant in arguments.variants or params.variants:
            for subject in subjects(Path(parent), variant, precisions, params, arguments.tiny):
                plant_all(subject, outcome, lambda name: arguments.only in name, lambda line: print(line, flush=True))
    for name in outcome.absent:
        print(f"{name}: nothing of the kind here")
    if arguments.json:
        more = {"caught_by": outcome.caught, "nothing_of_the_kind": outcome.absent}
        write_json(arguments.json, outcome.summary() | more)
    print(json.dumps(outcome.summary(), ensure_ascii=False))
    if outcome.missed:
        sys.exit(1)


def subjects(root: Path, variant: str, precisions: list[Precision], params: Params, small: bool) -> Iterator[Subject]:
    if small:
        yield from tiny_subjects(variant, precisions, params, root)
        return
    for precision in precisions:
        folder = root / variant / precision
        folder.mkdir(parents=True)
        yield from_data(Path("data"), variant, precision, params, folder)


if __name__ == "__main__":
    exit_cleanly(main)
