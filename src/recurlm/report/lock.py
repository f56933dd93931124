"""dvc.lock: whether a variant's results belong to the present corpus, tokens and parameters, and to each other."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from recurlm.errors import InputError
from recurlm.storage import read_json

MAKES_A_BUNDLE = ("fetch", "tokenize", "train@{}", "evaluate@{}", "export@{}", "verify@{}")
MAKES_A_DIAGNOSIS = ("fetch", "tokenize", "train@{}", "diagnose@{}")
MISSING = object()


class Lock:
    """The stages of dvc.lock, compared with each other and with the files and parameters under `root`."""

    def __init__(self, root: Path) -> None:
        """Read dvc.lock and params.yaml.

        Raises:
            InputError: dvc.lock is not YAML.
        """
        self.root = root
        self.stages = locked_stages(root)
        self._params = yaml.safe_load((root / "params.yaml").read_text(encoding="utf-8")) or {}
        self._md5 = cache(md5_of)  # data/tokens belongs to all variants

    def stale(self, variant: str, stages: tuple[str, ...] = MAKES_A_BUNDLE) -> str | None:
        """Why results of these stages do not belong together, in one line; None where they do.

        What is missing is not stale.
        """
        names = [name.format(variant) for name in stages]
        written = {path: (md5, name) for name in names for path, md5 in self._files(name, "outs")}
        return next((why for name in names for why in self._problems(name, written)), None)

    def outs(self, stage: str) -> dict[str, str]:
        """Path → md5 of what a stage wrote."""
        return dict(self._files(stage, "outs"))

    def _problems(self, stage: str, written: Mapping[str, tuple[str, str]]) -> Iterator[str]:
        if stage not in self.stages:
            yield f"dvc.lock has no stage {stage}"
        if stage == "tokenize":
            yield from self._initial_model()
        for name, value in self._locked_params(stage).items():
            locked, present = dict(flat({name: value})), dict(flat({name: _look_up(self._params, name)}))
            for key in locked | present:
                if _plain(locked.get(key, MISSING)) != _plain(present.get(key, MISSING)):
                    yield f"{stage} ran with another {key} than params.yaml has"
        for path, md5 in self._files(stage, "deps"):
            if path in written and written[path][0] != md5:
                yield f"{stage} read another {path} than {written[path][1]} wrote last"
        for path, md5 in self._files(stage, "outs"):
            # Nobody but stage verify reads the graphs.
            if not path.startswith("data/graphs/") and self._md5(self.root / path) not in (md5, None):
                yield f"{path} is not what {stage} wrote"

    def _initial_model(self) -> Iterator[str]:
        """DVC does not watch the folder of train.init_from."""
        folder = self._locked_params("tokenize").get("train.init_from")
        manifest = self.root / "data/tokens/manifest.json"
        if folder is None or not manifest.is_file() or not (self.root / folder / "model.json").is_file():
            return
        earlier = read_json(manifest).get("init_from") or {}
        if read_json(self.root / folder / "model.json")["sha256"] != earlier.get("model_sha256"):
            yield f"another model lies in {folder} than it goes on from: dvc repro --force tokenize"

    def _locked_params(self, stage: str) -> dict[str, Any]:
        return dict((self.stages.get(stage, {}).get("params") or {}).get("params.yaml") or {})

    def _files(self, stage: str, kind: str) -> Iterator[tuple[str, str]]:
        for file in self.stages.get(stage, {}).get(kind) or ():
            if file["path"].startswith("data/") and "md5" in file:
                yield file["path"], file["md5"]


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(name, value) of all leaves, with nested names joined by dots."""
    for name, value in tree.items():
        if isinstance(value, dict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _plain(value: Any) -> Any:
    """A value without what two readers of YAML differ in: 1e-5 is a number to DVC and a string to PyYAML."""
    if isinstance(value, list):
        return [_plain(each) for each in value]
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


def _look_up(params: Any, name: str) -> Any:
    for key in name.split("."):
        params = params.get(key, MISSING) if isinstance(params, dict) else MISSING
    return params


def md5_of(path: Path) -> str | None:
    """The md5 of a file or a folder, in DVC's way; None where there is none."""
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "md5").hexdigest()
    if not path.is_dir():
        return None
    files = {file.relative_to(path).as_posix(): md5_of(file) for file in path.rglob("*") if file.is_file()}
    listed = [{"md5": files[name], "relpath": name} for name in sorted(files)]
    return f"{hashlib.md5(json.dumps(listed).encode()).hexdigest()}.dir"


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
