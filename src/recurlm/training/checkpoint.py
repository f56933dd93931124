"""Checkpoints of a run under way: a kill loses a few seconds, and changes nothing of the result."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from recurlm.storage import sha256_of, whole_file
from recurlm.training.distributed import ALONE, Workers


class Snapshot(NamedTuple):
    """What a checkpoint holds: tensors by name, and values that JSON has."""

    tensors: dict[str, Tensor]
    values: dict[str, Any]

    def part(self, name: str) -> dict[str, Tensor]:
        """The tensors whose names begin with `name` and a slash, without it."""
        return {
            key.removeprefix(f"{name}/"): value for key, value in self.tensors.items() if key.startswith(f"{name}/")
        }


class Checkpoint:
    """One file, replaced every so often. It belongs to one run, whose key hashes all that shapes its result.

    Of several processes, the first one of each machine writes a file, all but one with its rank in the name, since the
    machines may have a disk in common. A run goes on from the file that is furthest.
    """

    def __init__(self, path: Path, key: str, every: float, workers: Workers = ALONE) -> None:
        """`every` is in seconds; 0 saves after every step."""
        self.path = path
        self.key = key
        self.every = every
        self.workers = workers
        self._saved_at = time.monotonic()

    @property
    def due(self) -> bool:
        return time.monotonic() - self._saved_at >= self.every

    def save(self, snapshot: Snapshot) -> None:
        """Replace the file, whole or not at all."""
        if self.workers.local_rank == 0:
            content = save(
                {
                    name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
                    for name, value in snapshot.tensors.items()
                },
                {"key": self.key, "values": json.dumps(snapshot.values)},
            )
            rank = "" if self.workers.first else f".{self.workers.rank}"
            with whole_file(self.path.with_name(f"{self.path.stem}{rank}{self.path.suffix}")) as partial:
                partial.write_bytes(content)
        self._saved_at = time.monotonic()

    def load(self) -> Snapshot | None:
        """What was saved last; None if nothing was, or if it belongs to another run."""
        content, steps = b"", -1
        for path in self._files():
            read = path.read_bytes()
            saved = self._snapshot(read)
            if saved is not None and saved.values["step"] > steps:
                content, steps = read, saved.values["step"]
        return self._snapshot(self.workers.furthest(content, steps))

    def remove(self) -> None:
        """The run is over, and its result written."""
        for path in self._files():
            path.unlink(missing_ok=True)

    def _files(self) -> list[Path]:
        """Those of this run on this machine, for its first process."""
        if self.workers.local_rank != 0:
            return []
        others = self.path.parent.glob(f"{self.path.stem}.*{self.path.suffix}")
        return [path for path in (self.path, *sorted(others)) if path.is_file()]

    def _snapshot(self, content: bytes) -> Snapshot | None:
        """What a file's content holds; None if it is broken, or of another run."""
        try:
            tensors = load(content)
        except SafetensorError:
            return None
        # The file's header, which names the tensors: its length in 8 bytes, then JSON.
        size = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + size]).get("__metadata__", {})
        return Snapshot(tensors, json.loads(metadata["values"])) if metadata.get("key") == self.key else None


def run_key(settings: Mapping[str, Any], files: Iterable[Path]) -> str:
    """One hash over everything that shapes a run's result: parameters and the like, data, code.

    Args:
        files: files or folders; of a folder, the Python files in it.
    """
    digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode())
    for path in files:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(f"{file.as_posix()} {sha256_of(file)}\n".encode())
    return digest.hexdigest()
