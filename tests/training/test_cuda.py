"""Training on a GPU: the losses of the CPU, alone and by two processes. No GPU was at hand: these tests never ran."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from configs import CHECKOUT, write_params

pytestmark = [pytest.mark.slow, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA GPU here")]

VARIANTS = {
    "rnn": {"cell": "rnn"},
    "gru": {"cell": "gru"},
    "lstm": {"cell": "lstm"},
    "bilstm": {"cell": "lstm", "bidirectional": True},
    "mingru": {"cell": "mingru"},
    "mamba2": {"cell": "mamba2"},
    "gated_deltanet": {"cell": "gated_deltanet"},
}
SMALL = {"embedding_size": 32, "hidden_size": 32, "layers": 2}
NATS = 0.01  # between kernels that add in another order, over the whole run


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("cuda")
    zoo = yaml.safe_load((CHECKOUT / "zoo.yaml").read_text(encoding="utf-8"))["variants"]
    known = yaml.safe_load((CHECKOUT / "params.yaml").read_text(encoding="utf-8"))["variants"]
    blocks = {name: (known | zoo)[name] | block | SMALL for name, block in VARIANTS.items()}
    write_params(
        folder,
        {
            "fetch": {"source": "files", "files": {"path": "play.txt", "split": "position"}},
            "tokenize": {"kind": "char"},
            "train": {"data": {"epochs": 2, "batch_size": 8, "sequence_length": 32}, "precision": "fp32"},
            "variants": blocks,
        },
    )
    lines = (f"KING. The {number} ships of {number * 7 % 31} lords come home, and sing.\n" for number in range(400))
    (folder / "play.txt").write_text("".join(lines), encoding="utf-8")
    for script in ("fetch.py", "tokenize_corpus.py"):
        subprocess.run([sys.executable, CHECKOUT / "pipelines" / script], cwd=folder, check=True)
    return folder


def trained(prepared: Path, folder: Path, variant: str, device: str, processes: int) -> list[float]:
    """The validation losses of a run; its speed is printed."""
    shutil.copytree(prepared, folder)
    params = yaml.safe_load((folder / "params.yaml").read_text(encoding="utf-8"))
    params["train"] |= {"device": device}
    params["train"]["machine"]["processes"] = processes
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    subprocess.run([sys.executable, CHECKOUT / "pipelines/train.py", variant], cwd=folder, check=True)
    timings = json.loads((folder / f"data/timings/train-{variant}.json").read_text(encoding="utf-8"))
    assert (timings["device"], timings["processes"]) == (device, processes)
    print(f"{variant} on {device}, {processes} processes: {timings['tokens_per_second']:,.0f} tokens/s")
    with (folder / f"data/models/{variant}/curve.csv").open(encoding="utf-8") as file:
        return [float(row["validation_loss"]) for row in csv.DictReader(file)]


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_gpu_trains_as_the_cpu_does_alone_and_by_two_processes(prepared: Path, tmp_path: Path, variant: str) -> None:
    cpu = trained(prepared, tmp_path / "cpu", variant, "cpu", 1)
    for processes in (1, 2):
        gpu = trained(prepared, tmp_path / f"cuda{processes}", variant, "cuda", processes)
        assert gpu == pytest.approx(cpu, abs=NATS)
