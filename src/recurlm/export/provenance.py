"""What a bundle says about its making, and the sampling settings that it is used with unless others are given."""

from __future__ import annotations

import inspect
import subprocess
from collections.abc import Callable
from typing import Any

from recurlm import __version__
from recurlm.runtime import Filler, Generator

CODE = ("src", "pipelines", "params.yaml", "dvc.yaml")  # results that are in git change no bundle
SETTINGS = {"temperature", "top_k", "top_p", "min_p", "repetition_penalty"}


def made_by() -> dict[str, Any]:
    """The version, the last commit of the code, and whether the code differs from it; None where git knows none."""
    commit = _git("log", "-1", "--format=%H", "--", *CODE)
    changes = _git("status", "--porcelain", "--", *CODE)
    return {"version": __version__, "commit": commit or None, "modified": bool(changes) if commit else None}


def sampling_defaults(objective: str) -> dict[str, float]:
    """The defaults of the runtime's `generate`, or of `fill` for a cloze model."""
    functions: dict[str, Callable[..., str]] = {"causal": Generator.generate, "cloze": Filler.fill}
    parameters = inspect.signature(functions[objective]).parameters
    return {name: each.default for name, each in parameters.items() if name in SETTINGS}


def _git(*arguments: str) -> str | None:
    """What git prints in the current folder; None without git or outside a repository."""
    try:
        return subprocess.run(["git", *arguments], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
