"""Hashes of the report's inputs and outputs, so that a run with nothing new ends at once.

Every `dvc repro` imports this module: it imports only the standard library and YAML.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import yaml

from recurlm.errors import InputError
from recurlm.storage import read_json, sha256_of, to_json

FOLDER = Path("data/report")
FILE = "fingerprint.json"
# Small files only: they hold the hashes of the large ones.
INPUTS = (
    "params.yaml",
    "data/corpus/manifest.json",
    "data/tokens/manifest.json",
    "data/models/*/model.json",
    "data/models/*/curve.csv",
    "data/models/*/log.csv",
    "data/metrics/*.json",
    "data/metrics/verification/*.json",
    "data/metrics/perplexity/*.json",
    "data/metrics/diagnostics/*.json",
    "data/metrics/samples/*.json",
    "data/onnx/*/*/bundle.json",
    "data/timings/*.json",
)
CODE = ("report", "runtime", "tracking")
CODE_FILES = {".py", ".css", ".js", ".j2"}


@dataclass(frozen=True)
class Fingerprint:
    """The content of data/report/fingerprint.json."""

    inputs: str  # sha256 over all inputs of the report
    outputs: dict[str, str]  # name of a file in data/report → its sha256
    sync_plan: dict[str, Any]  # the fields of a `SyncPlan`


def inputs_hash(root: Path) -> str:
    """One sha256 over the results, the parameters and the code behind a report."""
    digest = hashlib.sha256()
    for name, content in _inputs(root):
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    return digest.hexdigest()


def _inputs(root: Path) -> Iterator[tuple[str, bytes]]:
    for pattern in INPUTS:
        for path in sorted(root.glob(pattern)):
            yield path.relative_to(root).as_posix(), path.read_bytes()
    # DVC writes the report's own entry into dvc.lock after the stage has run.
    stages = {name: stage for name, stage in locked_stages(root).items() if name != "report"}
    yield "dvc.lock", json.dumps(stages, sort_keys=True).encode()
    package = Path(__file__).parents[1]
    for folder in CODE:
        for path in sorted(path for path in (package / folder).rglob("*") if path.suffix in CODE_FILES):
            yield path.relative_to(package).as_posix(), path.read_bytes()


def locked_stages(root: Path) -> dict[str, Any]:
    """The stages of dvc.lock, name → entry; none where there is no dvc.lock.

    Raises:
        InputError: dvc.lock is not YAML, as after an unfinished merge.
    """
    path = root / "dvc.lock"
    if not path.is_file():
        return {}
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times as fast, where libyaml is there
    try:
        content = yaml.load(path.read_bytes(), Loader=loader)
    except yaml.YAMLError as error:
        raise InputError(f"{path}: not YAML ({error}): restore it from git") from None
    return dict((content or {}).get("stages") or {})


def read(root: Path) -> Fingerprint | None:
    """The fingerprint of the report in data/report; None if the report is missing or a file of it changed."""
    path = root / FOLDER / FILE
    if not path.is_file():
        return None
    content = read_json(path)
    if content.keys() != Fingerprint.__annotations__.keys() or content["outputs"] != _outputs(root / FOLDER):
        return None
    return Fingerprint(**content)


def write(folder: Path, inputs: str, plan: Callable[[str], dict[str, Any]]) -> Fingerprint:
    """Write the fingerprint of the report in `folder`, as its last file.

    Args:
        plan: hash of the report's files → the fields of a `SyncPlan`.
    """
    outputs = _outputs(folder)
    fingerprint = Fingerprint(inputs, outputs, plan(content_hash(outputs)))
    (folder / FILE).write_text(to_json(asdict(fingerprint)), encoding="utf-8")
    return fingerprint


def content_hash(outputs: dict[str, str]) -> str:
    """One sha256 over the files of a report."""
    return hashlib.sha256(json.dumps(outputs, sort_keys=True).encode()).hexdigest()


def _outputs(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE)
    return {path.relative_to(folder).as_posix(): sha256_of(path) for path in files}
