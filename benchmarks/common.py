"""What the benchmarks share: the project's params.yaml, values from the command line, and files of figures."""

from __future__ import annotations

import argparse
import os
import platform
import shlex
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import yaml

from recurlm import config
from recurlm.config import ModelConfig, TrainConfig, override
from recurlm.errors import InputError
from recurlm.storage import write_json
from recurlm.training.optimizer import has_bf16

ROOT = Path(__file__).resolve().parents[1]
PARAMS = config.load(ROOT / "params.yaml")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """The option `--json FILE`, which every benchmark has."""
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures, the command and the machine")


def write_figures(path: Path | None, figures: dict[str, Any]) -> None:
    """Write figures with the command that measured them and the machine; nothing without a path."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"command": command(), "machine": machine(), **figures})


def command() -> str:
    """The command line of this process, as one would type it in the project's folder."""
    return shlex.join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])


def machine() -> dict[str, Any]:
    """What a figure of speed depends on beside the code."""
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "bf16": has_bf16(torch.device("cpu")),
    }


def cpu_model() -> str:
    """The processor's name; elsewhere than on Linux, what Python knows of it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    fields = dict(line.split(":", 1) for line in reversed(lines) if ":" in line)
    names = {key.strip(): value.strip() for key, value in fields.items()}
    family = ", ".join(f"{key} {names[key]}" for key in ("cpu family", "model") if key in names)
    return f"{names.get('model name', platform.machine())} ({family})"


def parse_changes(changes: Iterable[str]) -> dict[str, Any]:
    """Values by dotted keys from arguments like `data.epochs=2`, each read as YAML.

    Raises:
        InputError: an argument has no `=`.
    """
    values = {}
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise InputError(f"'{change}' is not KEY=VALUE")
        values[key] = yaml.safe_load(value)
    return values


def configure(
    model_config: ModelConfig, changes: dict[str, Any], train: TrainConfig = PARAMS.train
) -> tuple[TrainConfig, ModelConfig]:
    """`train` and a variant's block with values replaced: a key that begins in `train` belongs there.

    Raises:
        InputError: a key is unknown, or a value does not fit.
    """
    of_train = {key: value for key, value in changes.items() if key.split(".")[0] in TrainConfig.model_fields}
    of_model = {key: value for key, value in changes.items() if key not in of_train}
    for key in of_model:
        if "." in key:
            raise InputError(f"unknown parameter '{key}': it is no key of train")
    return override(train, of_train), override(model_config, of_model)


def square_matrices(size: int = 2048) -> tuple[torch.Tensor, torch.Tensor]:
    """Two matrices whose product tells the machine's rate: in bf16, or in fp32 where bf16 would be emulated."""
    a, b = torch.randn(2, size, size)
    return (a.bfloat16(), b.bfloat16()) if has_bf16(a.device) else (a, b)


def seconds(call: Callable[[], object], clock: Callable[[], float] = time.perf_counter) -> float:
    """How long a call takes; by `time.process_time`, how much of the processors it uses."""
    started = clock()
    call()
    return clock() - started
