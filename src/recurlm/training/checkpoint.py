"""A run kept on disk while it is under way: a kill loses a few seconds of it, and changes nothing of its result."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor
from torch.optim import Optimizer

from recurlm.storage import sha256_of, whole_file


class Saved(NamedTuple):
    """What a checkpoint holds: tensors by name, and plain facts."""

    tensors: dict[str, Tensor]
    facts: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `name` and a slash, without it."""
        return {
            key.removeprefix(f"{name}/"): value for key, value in self.tensors.items() if key.startswith(f"{name}/")
        }


class Checkpoint:
    """One file, replaced every so often; it belongs to one run, whose key says all that shapes its result."""

    def __init__(self, path: Path, key: str, every: float) -> None:
        """`every` is in seconds; 0 saves after every step."""
        self.path = path
        self.key = key
        self.every = every
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.every

    def save(self, tensors: Mapping[str, Tensor], facts: Mapping[str, Any]) -> None:
        """Replace the file, whole or not at all."""
        content = save(
            {
                name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                for name, value in tensors.items()
            },
            {"key": self.key, "facts": json.dumps(facts)},
        )
        with whole_file(self.path) as partial:
            partial.write_bytes(content)
        self._saved_at = time.monotonic()

    def load(self) -> Saved | None:
        """What was saved last; None if nothing was, or if it belongs to another run."""
        try:
            with safe_open(self.path, framework="pt") as file:
                metadata = file.metadata() or {}
                if metadata.get("key") != self.key:
                    return None
                return Saved({name: file.get_tensor(name) for name in file.keys()}, json.loads(metadata["facts"]))  # noqa: SIM118
        except (FileNotFoundError, SafetensorError):
            return None

    def remove(self) -> None:
        """The run is over, and its result written."""
        self.path.unlink(missing_ok=True)


def key_of(facts: Mapping[str, Any], files: Iterable[Path]) -> str:
    """One hash over everything that shapes a run's result: parameters and the like, data, code.

    Args:
        files: files or folders; of a folder, the Python files in it.
    """
    digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
    for path in files:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.as_posix()} {sha256_of(file)}\n".encode())
    return digest.hexdigest()


def optimizer_tensors(updates: list[Optimizer]) -> dict[str, Tensor]:
    """The state of optimizers, under flat names."""
    return {
        f"{number}.{parameter}.{name}": value
        for number, update in enumerate(updates)
        for parameter, state in update.state_dict()["state"].items()
        for name, value in state.items()
    }


def load_optimizers(updates: list[Optimizer], tensors: Mapping[str, Tensor]) -> None:
    """Give fresh optimizers the state that `optimizer_tensors` told."""
    for number, update in enumerate(updates):
        described = update.state_dict()
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            owner, parameter, name = key.split(".", 2)
            if int(owner) == number:
                state.setdefault(int(parameter), {})[name] = value
        update.load_state_dict({**described, "state": state})


def random_state(device: torch.device) -> dict[str, Tensor]:
    """Where torch's random numbers stand."""
    found = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return found


def load_random_state(device: torch.device, states: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda":
        torch.cuda.set_rng_state(states["cuda"], device)
