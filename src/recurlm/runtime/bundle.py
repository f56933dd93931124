"""A bundle, the folder that ships: ONNX graphs, a tokenizer, and bundle.json with the sha256 of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from tokenizers import Tokenizer

from recurlm.errors import InputError, nearest
from recurlm.runtime.session import GraphSession
from recurlm.runtime.tokenizer import KINDS, Vocabulary
from recurlm.storage import check_sha256, read_sealed_json

FORMAT = 3
DESCRIPTION = "bundle.json"
KEYS = {
    "variant": str,
    "precision": str,
    "objective": str,
    "tokenizer_kind": str,
    "special": dict,
    "state_spec": dict,
    "files": dict,
    "seal": str,
}

Task = Literal["generate", "fill", "score"]
# What a model of each objective can do, and which of its graphs carry a state from call to call. A cloze model's other
# graphs read a whole text at once, from both sides.
TASKS: dict[str, tuple[Task, ...]] = {"causal": ("generate", "score"), "cloze": ("fill", "score")}
STATEFUL = {"causal": {"generator.onnx", "scorer.onnx", "step.onnx"}, "cloze": {"step.onnx"}}


@dataclass(frozen=True)
class Bundle:
    """What bundle.json says that is needed to run the graphs, and the vocabulary."""

    folder: Path
    variant: str
    precision: str  # of the weights: fp32, int8 or int4
    objective: str  # "causal": predicts the next token. "cloze": predicts a masked token from both sides.
    state_spec: dict[str, tuple[int, ...]]  # name → shape of one sequence's state, of any rank
    files: frozenset[str]
    vocabulary: Vocabulary

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Check every file of a bundle, and load its vocabulary.

        Raises:
            InputError: there is no bundle, it has another format, or a file of it is missing or changed.
        """
        folder = Path(path)
        description = _description(folder)
        for name, file in description["files"].items():
            check_sha256(folder / name, file["sha256"])
        _known(folder, "tokenizer_kind", description["tokenizer_kind"], KINDS)
        _known(folder, "objective", description["objective"], TASKS)
        _require(folder, description["files"], "tokenizer.json")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(
            folder=folder,
            variant=description["variant"],
            precision=description["precision"],
            objective=description["objective"],
            state_spec={name: tuple(shape) for name, shape in description["state_spec"].items()},
            files=frozenset(description["files"]),
            vocabulary=Vocabulary(tokenizer, description["tokenizer_kind"], description["special"]),
        )

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the model can do."""
        return TASKS[self.objective]

    def session(self, name: str, inputs: set[str], threads: int | None) -> GraphSession:
        """Load one of the bundle's graphs.

        Args:
            inputs: all inputs of the graph, apart from the state.
            threads: within one operator; None means one.

        Raises:
            InputError: the bundle has no such file, the graph has other inputs or states, or this onnxruntime is too
                old for it.
        """
        _require(self.folder, self.files, name)
        state_spec = self.state_spec if name in STATEFUL[self.objective] else {}
        return GraphSession(self.folder / name, state_spec, threads, inputs)


def bundles_in(folder: Path) -> list[str]:
    """The names of the bundles that lie in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{DESCRIPTION}"))


def _description(folder: Path) -> dict[str, Any]:
    """Read and check bundle.json."""
    path = folder / DESCRIPTION
    if not path.is_file():
        if inside := bundles_in(folder):
            raise InputError(f"{folder}: no bundle, but a folder of some: name one of {', '.join(inside)}")
        beside = bundles_in(folder.parent)
        hint = f": {nearest(folder.name, beside)}" if beside else ""
        raise InputError(f"{folder}: no bundle here (it would hold a {DESCRIPTION}){hint}")
    description = read_sealed_json(path)
    if not isinstance(description, dict) or "format" not in description:
        raise InputError(f"{path}: not a bundle's description")
    written = description["format"]
    if written != FORMAT:
        older = isinstance(written, int) and written < FORMAT
        remedy = "export it again (dvc repro)" if older else "install the recurlm that wrote it"
        raise InputError(f"{path}: format {written}, and this recurlm reads {FORMAT}: {remedy}")
    for key, kind in KEYS.items():
        if not isinstance(description.get(key), kind):
            raise InputError(f"{path}: '{key}' is missing or is not what it should be: export it again")
    return description


def _known(folder: Path, key: str, value: str, known: Any) -> None:
    if value not in known:
        raise InputError(f"{folder / DESCRIPTION}: unknown {key} '{value}': {nearest(value, known)}")


def _require(folder: Path, files: Any, name: str) -> None:
    if name not in files:
        raise InputError(f"{folder}: the bundle has no {name}: export it again")
