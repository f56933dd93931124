"""benchmarks/scaling.py: the model of messages, and that the page shows the figures of its JSON."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from configs import CHECKOUT
from pages import RESULTS, Page, result

LATENCY, RATE = 0.001, 1e6
CALLS = [("all_reduce", 1_000_000), ("broadcast", 300_000), ("broadcast", 200_000), ("all_reduce", 16)]


@pytest.fixture
def scaling(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(CHECKOUT / "benchmarks"))
    return importlib.import_module("scaling")


def test_two_machines_give_each_other_every_byte_once(scaling: Any) -> None:
    assert scaling.seconds_of([("all_reduce", 1_000_000)], 2, 0.0, RATE) == pytest.approx(1.0)
    assert scaling.seconds_of([("broadcast", 300_000)], 2, LATENCY, RATE) == pytest.approx(0.301)


def test_a_ring_sends_less_than_twice_the_bytes_and_waits_for_every_hop(scaling: Any) -> None:
    for machines in (8, 64, 512):
        assert scaling.seconds_of(CALLS[:1], machines, 0.0, RATE) == pytest.approx(2 * (machines - 1) / machines)
        assert scaling.seconds_of(CALLS[3:], machines, LATENCY, 1e12) == pytest.approx(2 * (machines - 1) * LATENCY)


def test_the_cost_of_a_link_is_found_from_its_messages(scaling: Any) -> None:
    points = [(size, scaling.seconds_of([("all_reduce", size)], 2, LATENCY, RATE)) for size in scaling.SIZES]
    latency, rate = scaling.fit(points)
    assert latency == pytest.approx(LATENCY, rel=0.02)
    assert rate == pytest.approx(RATE)


def test_more_machines_and_slower_links_are_less_efficient_and_want_more_local_steps(scaling: Any) -> None:
    base = {"step_seconds_without": 0.1, "calls": CALLS, "parameters": 250_000}
    links = {
        name: {"latency_ms": latency, "megabits_per_second": rate, "milliseconds_apart": latency}
        for name, latency, rate in (("quick", 0.1, 1000), ("slow", 1.0, 100))
    }
    rows = scaling.extrapolate(base, links, 1000)
    quick, slow = rows[:3], rows[3:]
    for group in (quick, slow):
        assert [row["machines"] for row in group] == [8, 64, 512]
        assert sorted((row["efficiency"] for row in group), reverse=True) == [row["efficiency"] for row in group]
        assert sorted(row["local_steps"] for row in group) == [row["local_steps"] for row in group]
    assert all(a["efficiency"] > b["efficiency"] for a, b in zip(quick, slow, strict=True))


def test_the_page_shows_the_figures(scaling: Any) -> None:
    (shown,) = scaling.MARKS.findall(Page("docs/distributed.md").text)
    published = (RESULTS / "scaling.json").exists()
    assert shown == (scaling.tables(result("scaling")) if published else "No figures are published yet.\n")
