"""The machine's load is sampled now and then."""

import time

import pytest

from recurlm.training import load


def test_samples_are_apart_and_say_when(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "EVERY", 0.05)
    watched = load.Load()
    watched.hear()
    assert watched.samples == []
    end = time.monotonic() + 0.3
    while time.monotonic() < end:
        watched.hear()
    seconds = [sample["seconds"] for sample in watched.samples]
    assert 3 <= len(seconds) <= 6
    assert all(0.05 <= later - earlier < 0.3 for earlier, later in zip([0.0, *seconds[:-1]], seconds, strict=True))
    assert any(sample["cpu_utilization_percentage"] > 0 for sample in watched.samples)
    assert all(sample["process_memory_usage_megabytes"] > 10 for sample in watched.samples)
