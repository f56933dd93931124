"""Too little memory ends a run with one line that names a batch that fits."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from recurlm.errors import InputError
from recurlm.training.memory import within_memory

LIMITED = """
import resource, sys, numpy as np, torch
from recurlm.config import Train, Variant
from recurlm.errors import InputError
from recurlm.model import build
from recurlm.training.batches import Stream
from recurlm.training.loop import train

torch.set_num_threads(1)
torch.manual_seed(1)
block = Variant(cell="lstm", embedding_size=32, hidden_size=64)

def run(size):
    model = build("lstm", block, 50)
    small = Train(batch_size=size, sequence_length=256, precision="fp32", optimizer="adamw", epochs=size / 4000)
    stream = Stream(np.arange(200_000) % 50, size, 256)
    return train(model, stream, {"bos": 0, "mask": 1}, small, block, lambda model: 0.0)

run(4)  # whatever is loaded once is loaded now
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 220 * 2**20,) * 2)
try:
    run(int(sys.argv[1]))
    print("fits")
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process by Linux's means")
def test_a_run_without_enough_memory_names_a_batch_that_fits_and_it_does() -> None:
    told = with_little_memory(512)
    assert told.startswith("params.yaml: out of memory with train.batch_size 512; ")
    assert told.endswith(" would fit: set train.batch_size to that")
    assert with_little_memory(int(told.split("; ")[1].split()[0])) == "fits"


def with_little_memory(batch_size: int) -> str:
    command = [sys.executable, "-c", LIMITED, str(batch_size)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=300).stdout.strip()


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_sizes_are_tried_from_the_smallest_up_until_one_does_not_fit(error: Exception) -> None:
    tried = []

    def step(rows: int) -> int:
        tried.append(rows)
        if rows > 6:
            raise error
        return rows

    assert within_memory(step, 5, 5) == 5
    with pytest.raises(InputError, match=r"train\.batch_size 96; 3 would fit"):
        within_memory(step, 96, 96)
    assert tried == [5, 96, 1, 1, 1, 3, 3, 3, 6, 6, 6, 12]


def test_where_nothing_fits_the_advice_is_another() -> None:
    def step(rows: int) -> None:
        raise MemoryError

    with pytest.raises(InputError, match=r"not even a batch of 1 fits: lower train\.sequence_length"):
        within_memory(step, 8, 8)


def test_another_error_is_passed_on() -> None:
    def step(rows: int) -> None:
        raise RuntimeError("shapes do not fit")

    with pytest.raises(RuntimeError, match="shapes"):
        within_memory(step, 8, 8)
