"""A bundle, the folder that ships: ONNX graphs, a tokenizer, and bundle.json with the sha256 of each.

bundle.json may come from anywhere: it is checked against a strict schema, and nothing of it is used before.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

from recurlm.errors import InputError, nearest
from recurlm.runtime.session import GraphSession
from recurlm.runtime.tokenizer import KINDS, MAX_TOKENIZER_BYTES, SPECIAL, Vocabulary
from recurlm.storage import check_sha256, read_sealed_json

FORMAT = 3
DESCRIPTION = "bundle.json"
REMEDY = "download or export it again"

Task = Literal["generate", "fill", "score"]
# What a model of each objective can do.
TASKS: dict[str, tuple[Task, ...]] = {"causal": ("generate", "score"), "cloze": ("fill", "score")}
PRECISIONS = ("fp32", "int8", "int4")
# Which graphs carry a state from call to call. A cloze model's others read a whole text at once, from both sides.
STATEFUL = {"causal": {"generator.onnx", "scorer.onnx", "step.onnx"}, "cloze": {"step.onnx"}}
# The outputs of a graph that are read, apart from the state.
OUTPUTS = {
    "generator.onnx": {"tokens", "next_seen"},
    "filler.onnx": {"filled", "log_prob"},
    "scorer.onnx": {"log_prob"},
    "step.onnx": {"logits"},
}

# A plain file name: no folder, no drive, nothing hidden.
FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*", re.ASCII)
SHA256 = re.compile(r"[0-9a-f]{64}", re.ASCII)
NAME = re.compile(r"[\w.-]{1,100}")
MAX_DESCRIPTION_BYTES = 4 << 20
MAX_GRAPH_BYTES = 1 << 31  # of a protocol buffer
MAX_FILES, MAX_STATES, MAX_RANK = 64, 4096, 8
MAX_VOCABULARY, MAX_STATE_SIZE = 1 << 24, 1 << 28

Value = TypeVar("Value")


@dataclass(frozen=True)
class Description:
    """What bundle.json says that is needed to run the graphs."""

    folder: Path
    variant: str
    precision: str  # of the weights
    objective: str  # "causal": predicts the next token. "cloze": predicts a masked token from both sides.
    vocab_size: int
    tokenizer_kind: str
    special: dict[str, int | None]
    state_spec: dict[str, tuple[int, ...]]  # name → shape of one sequence's state, of any rank
    files: dict[str, str]  # name → sha256

    @classmethod
    def read(cls, folder: Path) -> Description:
        """Read and check bundle.json, but none of the other files.

        Raises:
            InputError: there is no bundle, it has another format, or the schema forbids something of it.
        """
        path = folder / DESCRIPTION
        if not path.is_file():
            raise InputError(_no_bundle(folder))
        _check_size(path, MAX_DESCRIPTION_BYTES)
        raw = read_sealed_json(path, REMEDY)
        if not isinstance(raw, dict) or "format" not in raw:
            raise InputError(f"{path}: not a bundle's description")
        _check_format(path, raw["format"])
        variant = _checked(path, "variant", _matching(NAME, raw.get("variant")))
        objective = _one_of(path, raw, "objective", TASKS)
        vocab_size = _checked(path, "vocab_size", _int(raw.get("vocab_size"), 2, MAX_VOCABULARY))
        description = cls(
            folder=folder,
            variant=variant,
            precision=_one_of(path, raw, "precision", PRECISIONS),
            objective=objective,
            vocab_size=vocab_size,
            tokenizer_kind=_one_of(path, raw, "tokenizer_kind", KINDS),
            special=_checked(path, "special", _special(raw.get("special"), vocab_size, objective)),
            state_spec=_checked(path, "state_spec", _state_spec(raw.get("state_spec"))),
            files=_checked(path, "files", _files(raw.get("files"))),
        )
        _checked(path, "seal", _matching(SHA256, raw.get("seal")))
        return description

    def check_files(self) -> None:
        """Compare the size of each file with its bound, and its bytes with the sha256.

        Raises:
            InputError: a file is missing, too large, or changed.
        """
        for name in self.files:
            _check_size(self.folder / name, MAX_TOKENIZER_BYTES if name == "tokenizer.json" else MAX_GRAPH_BYTES)
        for name, sha256 in self.files.items():
            check_sha256(self.folder / name, sha256, REMEDY)


@dataclass(frozen=True)
class Bundle(Description):
    """A bundle whose files were checked, and its vocabulary."""

    vocabulary: Vocabulary

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Check every file of a bundle, and load its vocabulary.

        Raises:
            InputError: there is no bundle, it has another format, a file of it is missing or changed, or it contradicts
                itself.
        """
        description = Description.read(Path(path))
        description.check_files()
        vocabulary = Vocabulary.load(
            description.folder / "tokenizer.json",
            description.tokenizer_kind,
            description.special,
            description.vocab_size,
        )
        return cls(**vars(description), vocabulary=vocabulary)

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
            InputError: the bundle has no such file, the graph has other inputs, outputs or states, or this onnxruntime
                is too old for it.
        """
        if name not in self.files:
            raise InputError(f"{self.folder}: the bundle has no {name}: {REMEDY}")
        state_spec = self.state_spec if name in STATEFUL[self.objective] else {}
        outputs = OUTPUTS.get(name, set())
        return GraphSession(self.folder / name, state_spec, threads, inputs, self.vocabulary.size, outputs)


def bundles_in(folder: Path) -> list[str]:
    """The names of the bundles that lie in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{DESCRIPTION}"))


def _no_bundle(folder: Path) -> str:
    if inside := bundles_in(folder):
        return f"{folder}: no bundle, but a folder of some: name one of {', '.join(inside)}"
    beside = bundles_in(folder.parent)
    hint = f": {nearest(folder.name, beside)}" if beside else ""
    return f"{folder}: no bundle here (it would hold a {DESCRIPTION}){hint}"


def _check_size(path: Path, limit: int) -> None:
    size = path.stat().st_size if path.is_file() else 0
    if size > limit:
        raise InputError(f"{path}: {size / 1e6:,.1f} MB, and at most {limit / 1e6:,.1f} are read: {REMEDY}")


def _check_format(path: Path, found: Any) -> None:
    if isinstance(found, int) and not isinstance(found, bool) and found == FORMAT:
        return
    older = isinstance(found, int) and found < FORMAT
    remedy = "export it again (dvc repro)" if older else "install the recurlm that wrote it"
    raise InputError(f"{path}: format {str(found)[:40]}, and this recurlm reads {FORMAT}: {remedy}")


def _checked(path: Path, key: str, value: Value | None) -> Value:
    if value is None:
        raise InputError(f"{path}: '{key}' is missing or is not what it should be: {REMEDY}")
    return value


def _one_of(path: Path, raw: Mapping[str, Any], key: str, known: Iterable[str]) -> str:
    value = _checked(path, key, _matching(NAME, raw.get(key)))
    if value not in known:
        raise InputError(f"{path}: unknown {key} '{value}': {nearest(value, known)}")
    return value


# Each returns None for what the schema forbids.


def _int(value: Any, least: int, most: int) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and least <= value <= most else None


def _matching(pattern: re.Pattern[str], value: Any) -> str | None:
    return value if isinstance(value, str) and pattern.fullmatch(value) else None


def _special(value: Any, vocab_size: int, objective: str) -> dict[str, int | None] | None:
    """Role → id of a token that the graph knows, or null; no two roles have the same id."""
    if not isinstance(value, dict) or value.keys() != SPECIAL.keys():
        return None
    given = [id for id in value.values() if id is not None]
    if any(_int(id, 0, vocab_size - 1) is None for id in given) or len(set(given)) < len(given):
        return None
    needed = ("bos", "mask") if objective == "cloze" else ("bos",)
    return None if any(value[role] is None for role in needed) else value


def _state_spec(value: Any) -> dict[str, tuple[int, ...]] | None:
    """Name → shape, of a bounded size."""
    if not isinstance(value, dict) or len(value) > MAX_STATES:
        return None
    spec, size = {}, 0
    for name, shape in value.items():
        if _matching(NAME, name) is None or not isinstance(shape, list) or len(shape) > MAX_RANK:
            return None
        elements = 1
        for dimension in shape:
            if _int(dimension, 1, MAX_STATE_SIZE) is None:
                return None
            elements *= dimension
        spec[name], size = tuple(shape), size + elements
    return spec if size <= MAX_STATE_SIZE else None


def _files(value: Any) -> dict[str, str] | None:
    """Plain name → sha256, of the tokenizer and the graphs."""
    if not isinstance(value, dict) or len(value) > MAX_FILES or "tokenizer.json" not in value:
        return None
    hashes = {}
    for name, entry in value.items():
        sha256 = _matching(SHA256, entry.get("sha256")) if isinstance(entry, dict) else None
        if sha256 is None or _matching(FILE, name) is None or name == DESCRIPTION:
            return None
        hashes[name] = sha256
    return hashes
