"""A bundle, the folder that ships: opened if each file in it is the one that was proven, or refused with one line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from recurlm.errors import InputError, nearest
from recurlm.runtime.vocabulary import KINDS, Vocabulary
from recurlm.storage import check_sha256, read_sealed_json

FORMAT = 2
DESCRIPTION = "bundle.json"
KEYS = {
    "variant": str,
    "precision": str,
    "causal": bool,
    "tokenizer_kind": str,
    "special": dict,
    "state": dict,
    "files": dict,
    "seal": str,
}


@dataclass(frozen=True)
class Bundle:
    """What bundle.json says that is needed to run the graphs, and the vocabulary."""

    folder: Path
    variant: str
    precision: str  # of its weights: fp32, int8 or int4
    causal: bool  # True: predicts what comes next. False: predicts a token from both sides.
    state: dict[str, tuple[int, ...]]  # name → shape of one sequence's state
    files: frozenset[str]
    vocabulary: Vocabulary

    @classmethod
    def open(cls, path: str | Path) -> Bundle:
        """Check every file of a bundle, and read its vocabulary.

        Raises:
            InputError: this is no bundle, one of another format, or one with a file missing or changed.
        """
        folder = Path(path)
        description = _description(folder)
        for name, file in description["files"].items():
            check_sha256(folder / name, file["sha256"])
        kind = description["tokenizer_kind"]
        if kind not in KINDS:
            raise InputError(f"{folder / DESCRIPTION}: unknown tokenizer_kind '{kind}': {nearest(kind, KINDS)}")
        _require(folder, description["files"], "tokenizer.json")
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        return cls(
            folder=folder,
            variant=description["variant"],
            precision=description["precision"],
            causal=description["causal"],
            state={name: tuple(shape) for name, shape in description["state"].items()},
            files=frozenset(description["files"]),
            vocabulary=Vocabulary(tokenizer, kind, description["special"]),
        )

    def session(self, name: str, inputs: set[str], threads: int | None) -> Any:
        """One graph of the bundle as an onnxruntime session.

        Args:
            inputs: those that the caller will give, apart from the state.
            threads: within one operator; None means one.

        Raises:
            InputError: the file is not among the bundle's, is another graph, or too new for this onnxruntime.
        """
        if threads is not None and threads < 1:
            raise InputError(f"threads is {threads}: 1 or more")
        _require(self.folder, self.files, name)
        # Imported here, so that `import recurlm.runtime` takes no time.
        import onnxruntime
        from onnxruntime.capi import onnxruntime_pybind11_state as refusals

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads or 1
        options.use_deterministic_compute = True
        # Processors without VNNI add up int8 products in 16 bits, which may overflow, unless they are told not to.
        options.add_session_config_entry("session.x64quantprecision", "1")
        path = self.folder / name
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        except (refusals.Fail, refusals.InvalidGraph, refusals.InvalidProtobuf, refusals.NotImplemented) as error:
            reason = " ".join(str(error).split())
            raise InputError(f"{path}: onnxruntime {onnxruntime.__version__} cannot run it ({reason})") from None
        found = {value.name: tuple(value.shape[1:]) for value in session.get_inputs()}
        # A state is an input that may be left out, which onnxruntime lists apart.
        found |= {value.name: tuple(value.shape[1:]) for value in session.get_overridable_initializers()}
        state = {f"state.{name}": shape for name, shape in self.state.items()} if self.causal else {}
        if found.keys() != inputs | state.keys() or any(found[name] != shape for name, shape in state.items()):
            raise InputError(f"{path}: not the graph that {DESCRIPTION} describes: export it again")
        return session


def bundles_in(folder: Path) -> list[str]:
    """The names of the bundles that lie in a folder."""
    return sorted(path.parent.name for path in folder.glob(f"*/{DESCRIPTION}"))


def _description(folder: Path) -> dict[str, Any]:
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
    if description["format"] != FORMAT:
        raise InputError(
            f"{path}: format {description['format']}, and this recurlm reads {FORMAT}: install the one that wrote it"
        )
    for key, kind in KEYS.items():
        if not isinstance(description.get(key), kind):
            raise InputError(f"{path}: '{key}' is missing or is not what it should be: export it again")
    return description


def _require(folder: Path, files: Any, name: str) -> None:
    if name not in files:
        raise InputError(f"{folder}: the bundle has no {name}: export it again")
