"""Short memory ends a run with one line, and the machine's load is sampled now and then."""

from __future__ import annotations

import subprocess
import sys
import time

import pytest
import torch
from configs import CHECKOUT

from recurlm.errors import InputError
from recurlm.training import machine
from recurlm.training.machine import SystemMetrics, out_of_memory_is_bad_input

LIMITED = """
import resource, sys, numpy as np, torch
sys.path.insert(0, sys.argv[1])
from configs import model_config, train_config
from recurlm.errors import InputError
from recurlm.model import build
from recurlm.training.batches import Stream
from recurlm.training.loop import train

torch.set_num_threads(1)
torch.manual_seed(1)
config = model_config("lstm", embedding_size=32, hidden_size=64, layers=1)

def run(size):
    model = build("lstm", config, 50)
    changes = {"data.batch_size": size, "data.sequence_length": 256, "data.epochs": size / 4000}
    small = train_config(**changes, **{"precision": "fp32", "optimizer.name": "adamw"})
    stream = Stream(np.arange(200_000) % 50, size, 256)
    return train(model, stream, {"bos": 0, "mask": 1}, small, config, lambda model: 0.0)

run(4)  # whatever is loaded once is loaded now
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 220 * 2**20,) * 2)
try:
    run(512)
    print("fits")
except InputError as error:
    print(error)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process by Linux's means")
def test_a_run_without_enough_memory_says_what_to_lower() -> None:
    command = [sys.executable, "-c", LIMITED, str(CHECKOUT / "tests")]
    result = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    expected = "params.yaml: out of memory with train.data.batch_size 512: lower train.data.batch_size, "
    assert result.stdout.startswith(expected), result.stdout


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError()])
def test_an_allocation_that_fails_is_bad_input(error: Exception) -> None:
    with pytest.raises(InputError, match=r"train\.data\.batch_size 96"), out_of_memory_is_bad_input(96):
        raise error


def test_another_error_is_passed_on() -> None:
    with pytest.raises(RuntimeError, match="shapes"), out_of_memory_is_bad_input(8):
        raise RuntimeError("shapes do not fit")


def test_samples_are_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    now, samples = 1000.0, {}
    monkeypatch.setattr(machine.time, "monotonic", lambda: now)
    metrics = SystemMetrics()
    for _ in range(40):
        busy_until = time.process_time() + 0.01
        while time.process_time() < busy_until:
            pass
        now += machine.SAMPLE_SECONDS / 8
        if sample := metrics.sample():
            samples[now - 1000] = sample
    assert list(samples) == [n * machine.SAMPLE_SECONDS for n in range(1, 6)]
    assert any(sample["system/cpu_utilization_percentage"] > 0 for sample in samples.values())
    assert all(sample["system/process_memory_usage_megabytes"] > 10 for sample in samples.values())
