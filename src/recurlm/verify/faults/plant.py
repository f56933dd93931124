"""Plant faults in copies of a bundle, one at a time, and see whether the checks catch each."""

from __future__ import annotations

import random
import shutil
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from recurlm import model
from recurlm.config import Evaluate, ModelConfig, Params, Precision, Tokenize
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import describe, score
from recurlm.export.bundle import write_bundle, write_graphs
from recurlm.export.graphs import ExportCache
from recurlm.model import LanguageModel, build, count_parameters
from recurlm.objective import objective_of
from recurlm.stage import DATA
from recurlm.storage import read_json, sha256_of
from recurlm.tokens.files import TokenFile, open_tokens
from recurlm.tokens.special import BOS, special_ids
from recurlm.tokens.tokenizer import learn_tokenizer
from recurlm.verify.agreement import Verification, reference_of
from recurlm.verify.bundles import check_bundle, facts_of
from recurlm.verify.faults.catalogue import Fault, catalogue, renew_seals
from recurlm.verify.faults.graph_edits import NotHereError
from recurlm.verify.reference import Reference

SCORING = Evaluate(batch_size=3, window_tokens=40, context_tokens=10)
SIZES = {"embedding_size": 8, "hidden_size": 12}
LETTERS = "abcdefghijklmnopqrstu.\n"
DOCUMENTS = (180, 120)  # tokens of each


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
        """Of the bundle's logits; the bundle itself must pass."""
        verification = self._verification(self.folder, None)
        verification.run()
        self._check_files(self.folder)
        return verification.comparison.error

    def check(self, folder: Path, graph: str) -> None:
        """All checks that read one graph, or what is no graph."""
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
        description = read_json(self.folder / "bundle.json")
        counts = torch.bincount(torch.as_tensor(self.held_out.ids.astype("int64")))
        counts[list(filter(None, description["special"].values()))] = 0
        return catalogue(description["objective"], self.precision, int(counts.argmax()), description["state_spec"])


@dataclass
class Outcome:
    """What became of the faults of one or more bundles."""

    caught: dict[str, str] = field(default_factory=dict)  # name → check
    missed: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)  # where the bundle has nothing of the kind

    def add(self, other: Outcome) -> None:
        self.caught |= other.caught
        self.missed += other.missed
        self.absent += other.absent

    def summary(self, begin: str = "") -> dict[str, Any]:
        """Of the faults whose names begin so: "lstm int8, " are those of a bundle."""
        missed = [name for name in self.missed if name.startswith(begin)]
        caught = sum(name.startswith(begin) for name in self.caught)
        return {"planted": caught + len(missed), "caught": caught, "missed": missed}


def plant_all(
    subject: Subject,
    outcome: Outcome,
    chosen: Callable[[str], bool] = lambda name: True,
    report: Callable[[str], None] = lambda line: None,
) -> None:
    """Plant the chosen faults, one at a time; the bundle without a fault must pass."""
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


def tiny_subjects(variant: str, precisions: Iterable[Precision], params: Params, root: Path) -> Iterator[Subject]:
    """Bundles of a small model with random weights, in a new folder of `root`; none has a fault."""
    root = root / variant
    root.mkdir(parents=True)
    held_out, tokenizer = text(root)
    small, params = random_model(variant, params.variants[variant]), params.model_copy(update={"evaluate": SCORING})
    windows = (SCORING.window_tokens, SCORING.context_tokens, SCORING.batch_size)
    nats = score(small, held_out.ids, held_out.starts, *windows)
    metrics = describe(nats, held_out.counts, objective_of(small).metric_prefix)
    facts = {
        "parameters": count_parameters(small),
        "model_sha256": "1" * 64,
        "metrics": {"protocol": objective_of(small).protocol, **metrics},
        "verification": {"verified": True},
    }
    cache = ExportCache()
    for precision in precisions:
        graphs, folder = root / "graphs" / precision, root / "bundles" / precision
        for new in (graphs, folder):
            new.mkdir(parents=True)
        write_graphs(graphs, variant, small, held_out.manifest, params.export, precision, held_out.ids, cache)
        write_subject(folder, graphs, tokenizer, facts)
        yield Subject(variant, precision, small, folder, held_out, tokenizer, metrics, facts, params)


def text(root: Path) -> tuple[TokenFile, Path]:
    """Made-up documents of letters, and the tokenizer of their characters."""
    draw = random.Random(0)
    documents = ["".join(draw.choices(LETTERS, range(1, len(LETTERS) + 1), k=length - 1)) for length in DOCUMENTS]
    tokenizer = learn_tokenizer([LETTERS], Tokenize(kind="char", vocab_size=300, lowercase=False))
    path = root / "tokenizer.json"
    path.write_text(tokenizer.to_str(), encoding="utf-8")
    special = special_ids(tokenizer)
    ids = [[tokenizer.token_to_id(BOS), *tokenizer.encode(document).ids] for document in documents]
    tokens = sum(DOCUMENTS) - len(DOCUMENTS)
    counts = {"tokens": tokens, "words": 60, "bytes": tokens, "characters": tokens, "out_of_vocabulary_words": 0}
    manifest = {"special": special, "tokenizer_sha256": sha256_of(path), "kind": "char", "corpus": {}}
    starts = np.cumsum([0, *map(len, ids)])
    return TokenFile(np.array([id for document in ids for id in document], np.uint16), starts, counts, manifest), path


def random_model(variant: str, config: ModelConfig) -> LanguageModel:
    """Large weights, so that what is changed shows. What scales a norm, or is added to a gate, moves from its start."""
    torch.manual_seed(2)
    small = build(variant, config.model_copy(update=SIZES), len(LETTERS) + 3).eval().requires_grad_(False)
    for parameter in small.parameters():
        noise = torch.randn_like(parameter) * 0.4
        parameter.copy_(noise if parameter.ndim > 1 else parameter + noise)
    return small


def plant_variant(variant: str, precisions: list[Precision], params: Params, tiny: bool, only: str) -> Outcome:
    """Plant the faults whose names contain `only` in the bundles of a variant."""
    torch.set_num_threads(1)
    outcome = Outcome()
    with tempfile.TemporaryDirectory() as root:
        for subject in subjects(Path(root), variant, precisions, params, tiny):
            plant_all(subject, outcome, lambda name: only in name, partial(print, flush=True))
    return outcome


def subjects(root: Path, variant: str, precisions: list[Precision], params: Params, tiny: bool) -> Iterable[Subject]:
    """The bundles of a variant: of the pipeline's folder, or small ones."""
    if tiny:
        return tiny_subjects(variant, precisions, params, root)
    return (from_data(DATA, variant, precision, params, root / variant / precision) for precision in precisions)
