"""A bundle, the folder that ships: ONNX graphs, a tokenizer, and bundle.json with the sha256 of each."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from recurlm.errors import InputError
from recurlm.runtime.description import DESCRIPTION, REMEDY, TASKS, Description, Task, bundles_in
from recurlm.runtime.session import GraphSession
from recurlm.runtime.tokenizer import Vocabulary

__all__ = ["DESCRIPTION", "Bundle", "Task", "bundles_in"]

# Which graphs carry a state from call to call. A cloze model's others read a whole text at once, from both sides.
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
            InputError: there is no bundle, it has another format, a file of it is missing or changed, or it contradicts
                itself.
        """
        description = Description.read(Path(path))
        description.check_files()
        return cls(
            folder=description.folder,
            variant=description.variant,
            precision=description.precision,
            objective=description.objective,
            state_spec=description.state_spec,
            files=frozenset(description.files),
            vocabulary=Vocabulary.load(
                description.folder / "tokenizer.json",
                description.tokenizer_kind,
                description.special,
                description.vocab_size,
            ),
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
        if name not in self.files:
            raise InputError(f"{self.folder}: the bundle has no {name}: {REMEDY}")
        state_spec = self.state_spec if name in STATEFUL[self.objective] else {}
        return GraphSession(self.folder / name, state_spec, threads, inputs, self.vocabulary.size)
