"""What a second process gives, what processes say to each other, and a model of what many machines would do.

    python benchmarks/scaling.py --json benchmarks/results/scaling.json --page docs/distributed.md    # as root

One process with two threads and two with one train the same model on the same global batch, in alternation, and on
larger ones: what processes say to each other does not grow with the batch. Then two "machines" (network namespaces,
which need root) train over a link that tc limits: that shows what a message costs and whether the model foretells a
step. --page puts the tables between the marks of a page.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import os
import re
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch._dynamo  # what the first optimizer imports
import torch.distributed as dist
from common import PARAMS, add_json_option, write_figures
from network import Network, address, permitted

from recurlm.config import override
from recurlm.model import build, count_parameters
from recurlm.stage import make_deterministic
from recurlm.training import distributed
from recurlm.training.batches import BatchIterator, Stream
from recurlm.training.distributed import Workers
from recurlm.training.loop import train_step
from recurlm.training.optimizer import optimizers, precision
from recurlm.training.regularization import WeightAverage
from recurlm.training.state import TrainResult, TrainState

SPECIAL = {"bos": 0, "mask": 1}
# Megabits a second, and milliseconds that many machines are taken to be apart: tc here limits rates alone.
LINKS = {"1 Gbit/s": (1000.0, 0.1), "100 Mbit/s": (100.0, 1.0)}
SIZES = (16, 1 << 18, 1 << 20, 1 << 22)  # bytes of the messages that a link is measured with
MACHINES = (8, 64, 512)
LARGER = (4, 16)  # times the batch
EFFICIENCY = 0.9  # that local steps are to reach
MARKS = re.compile(r"(?<=<!-- table: python benchmarks/scaling\.py -->\n).*?(?=<!-- /table -->)", re.DOTALL)


class Talk:
    """What the processes say in a training step: seconds, with the wait for the slower one, messages and bytes."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, []  # type: float, list[tuple[str, int]]
        distributed._talk = self.timed
        for name in ("all_reduce", "broadcast"):
            setattr(dist, name, self.counted(name, getattr(dist, name)))

    @contextmanager
    def timed(self) -> Iterator[None]:
        started = time.perf_counter()
        yield
        self.seconds += time.perf_counter() - started

    def counted(self, name: str, call: Any) -> Any:
        def counting(tensor: torch.Tensor, *arguments: Any, **options: Any) -> Any:
            self.calls.append((name, tensor.numel() * tensor.element_size()))
            return call(tensor, *arguments, **options)

        return counting


def training_step(variant: str, batch: int, vocabulary: int, workers: Workers) -> tuple[Any, int]:
    """A step of the stage `train` with its settings, and the number of parameters."""
    train = override(PARAMS.train, {"data.batch_size": batch})
    block, length = PARAMS.variant(variant), train.data.sequence_length
    torch.manual_seed(1)
    model = build(variant, block, vocabulary)
    workers.join(model, batch)
    model.train()
    state = TrainState(
        model,
        optimizers(model, train.optimizer, block.muon_lr, block.adamw_lr, workers),
        WeightAverage(model, train.regularization),
        BatchIterator(Stream(np.random.default_rng(1).integers(2, vocabulary, batch * (length + 1)), batch, length)),
        TrainResult(precision=precision(train.precision, torch.device("cpu"))),
        workers=workers,
    )
    window = state.batches.peek()

    def step() -> None:
        train_step(state, window, SPECIAL, train, block.weight_drop)
        state.batches.cursor.window = 1  # not at the begin of an epoch, so that the state goes on
        workers.any(False, False)  # as the loop asks after each step

    return step, count_parameters(model)


def take_part(
    rank: int, world: int, threads: int, network: Network | None, port: int, arguments: Any, pipe: Connection
):
    """One process of a group: measures what the pipe asks for, until it closes."""
    if network:
        network.enter(rank + 1)
    make_deterministic(threads)
    talk, host = Talk(), address(1) if network else "127.0.0.1"
    if world > 1:
        store = dist.TCPStore(host, port, world, is_master=rank == 0, timeout=timedelta(seconds=120))
        dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    step, parameters = training_step(
        arguments.variant, arguments.batch_size, arguments.vocabulary, Workers(rank, world)
    )
    while (asked := pipe.recv()) is not None:
        if isinstance(asked, tuple):  # messages of so many bytes, so often
            size, times = asked
            message = torch.zeros(size // 4)
            spent = []
            for _ in range(times):
                started = time.perf_counter()
                dist.all_reduce(message)
                spent.append(time.perf_counter() - started)
            pipe.send(statistics.median(spent))
            continue
        talk.seconds = 0.0
        started = time.perf_counter()
        for _ in range(asked):
            talk.calls.clear()
            step()
        spent = time.perf_counter() - started
        # A matrix is sent in every second step: the last step's calls are those of about half of them.
        pipe.send(
            {"seconds": spent / asked, "talk": talk.seconds / asked, "calls": talk.calls, "parameters": parameters}
        )


class Group:
    """Processes that train together, and wait in between."""

    port = 29600 + os.getpid() % 300

    def __init__(self, world: int, threads: int, arguments: Any, network: Network | None = None) -> None:
        Group.port += 1
        context = multiprocessing.get_context("fork")
        self.pipes = []
        for rank in range(world):
            own, other = context.Pipe()
            values = (rank, world, threads, network, Group.port, arguments, other)
            context.Process(target=take_part, args=values, daemon=True).start()
            self.pipes.append(own)

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe in self.pipes:
            pipe.send(None)

    def measure(self, asked: int | tuple[int, int]) -> Any:
        """What the first process found."""
        for pipe in self.pipes:
            pipe.send(asked)
        answers = [pipe.recv() for pipe in self.pipes]
        return answers[0]


def alternate(arguments: Any, times: int = 1) -> dict[str, Any]:
    """One process with two threads, and two with one, in alternation, on a batch that is so many times as large."""
    arguments = argparse.Namespace(**{**vars(arguments), "batch_size": times * arguments.batch_size})
    tokens = arguments.batch_size * PARAMS.train.data.sequence_length
    rounds: dict[str, list[Any]] = {"1 × 2": [], "2 × 1": []}
    with Group(1, 2, arguments) as one, Group(2, 1, arguments) as two:
        for group in (one, two):
            group.measure(4)
        for _ in range(arguments.rounds):
            for way, group in (("1 × 2", one), ("2 × 1", two)):
                rounds[way].append(group.measure(max(2, arguments.steps // times)))
    speeds = {way: [tokens / row["seconds"] for row in rows] for way, rows in rounds.items()}
    ratios = [two / one for one, two in zip(*speeds.values(), strict=True)]
    last = rounds["2 × 1"][-1]
    return {
        "batch_size": arguments.batch_size,
        "parameters": last["parameters"],
        "tokens_per_second": {way: statistics.median(values) for way, values in speeds.items()},
        "ratio": statistics.median(ratios),
        "ratios": ratios,
        "communication_fraction": statistics.median(row["talk"] / row["seconds"] for row in rounds["2 × 1"]),
        "step_seconds_without": statistics.median(row["seconds"] - row["talk"] for row in rounds["2 × 1"]),
        "calls": last["calls"],
    }


def seconds_of(calls: list[tuple[str, int]], machines: int, latency: float, rate: float) -> float:
    """What a step's messages cost: gloo's ring for sums, a binomial tree for what one machine gives to all.

    Args:
        latency: seconds that a message takes from machine to machine, whatever its size.
        rate: bytes a second, in each direction.
    """
    sums = [size for name, size in calls if name == "all_reduce"]
    given = [size for name, size in calls if name == "broadcast"]
    hops, depth = 2 * (machines - 1), math.ceil(math.log2(machines))
    ring = sum(hops * latency + hops / machines * size / rate for size in sums)
    if not given:
        return ring
    # Matrices have their machines in turns and are under way at once: the busiest machine sends or receives most.
    owned = math.ceil(len(given) / machines) * max(given)
    return ring + depth * latency + max(sum(given) * (machines - 1) / machines, owned * depth) / rate


def fit(points: list[tuple[int, float]]) -> tuple[float, float]:
    """Latency in seconds and bytes a second from the time of messages between two machines."""
    latency = min(points)[1] / 2  # of a sum's two hops
    slopes = [(after - before) / (more - less) for (less, before), (more, after) in pairwise(points[1:])]
    return latency, 1 / statistics.median(slopes)


def over_links(arguments: Any, base: dict[str, Any]) -> dict[str, Any]:
    """Two machines that train over limited links: a message's cost, and a step's beside the one that the model says."""
    found = {}
    for name, (megabits, milliseconds) in LINKS.items():
        with Network(2) as network:
            network.limit(megabits)
            with Group(2, 1, arguments, network) as group:
                group.measure(4)
                points = [(size, group.measure((size, 9))) for size in SIZES]
                measured = [group.measure(arguments.steps) for _ in range(3)]
        latency, rate = fit(points)
        found[name] = {
            "milliseconds_apart": milliseconds,
            "latency_ms": 1000 * latency,
            "megabits_per_second": 8e-6 * rate,
            "talk_ms": 1000 * statistics.median(row["talk"] for row in measured),
            "talk_ms_by_the_model": 1000 * seconds_of(base["calls"], 2, latency, rate),
        }
    return found


def extrapolate(base: dict[str, Any], links: dict[str, Any], tokens: int) -> list[dict[str, Any]]:
    """Many machines, each with the rows that one of two processes had."""
    rows = []
    compute = base["step_seconds_without"]
    for name, link in links.items():
        for machines in MACHINES:
            latency = (link["latency_ms"] + link["milliseconds_apart"]) / 1000
            rate = link["megabits_per_second"] * 1e6 / 8
            talk = seconds_of(base["calls"], machines, latency, rate)
            # Local steps: each machine trains alone, and every so often one sum of all weights.
            weights = seconds_of([("all_reduce", 4 * base["parameters"])], machines, latency, rate)
            rows.append(
                {
                    "link": f"{name}, {link['milliseconds_apart']:g} ms",
                    "machines": machines,
                    "tokens_per_second": machines * tokens / 2 / (compute + talk),
                    "efficiency": compute / (compute + talk),
                    "local_steps": math.ceil(weights / compute * EFFICIENCY / (1 - EFFICIENCY)),
                }
            )
    return rows


def tables(figures: dict[str, Any]) -> str:
    """The figures as the page shows them."""
    two, calls = figures["two_processes"], figures["two_processes"]["calls"]
    lines = ["| rows of the batch | 1 × 2, tokens/s | 2 × 1, tokens/s | ratio | of it in communication |"]
    lines.append("|--:|--:|--:|--:|--:|")
    for batch in (two, *figures["larger"]):
        speeds, ratios = batch["tokens_per_second"], batch["ratios"]
        lines.append(
            f"| {batch['batch_size']} | {speeds['1 × 2']:,.0f} | {speeds['2 × 1']:,.0f} | {batch['ratio']:.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f}) | {batch['communication_fraction']:.0%} |"
        )
    lines += ["", f"*1 × 2* is one process with two threads; ratios are of {len(two['ratios'])} rounds. "]
    lines[-1] += f"Communication has the wait for the slower process in it; a step's {len(calls)} messages have "
    lines[-1] += f"{sum(size for _, size in calls) / 1e6:.1f} MB in all, whatever the batch."
    lines += ["", "| link | a message | rate | communication of a step | by the model |", "|---|--:|--:|--:|--:|"]
    for name, link in figures["links"].items():
        lines.append(
            f"| {name} | {link['latency_ms']:.2f} ms | {link['megabits_per_second']:,.0f} Mbit/s "
            f"| {link['talk_ms']:,.0f} ms | {link['talk_ms_by_the_model']:,.0f} ms |"
        )
    lines += ["", "| link | machines | tokens/s | efficiency | local steps for 90 % |", "|---|--:|--:|--:|--:|"]
    for row in figures["machines"]:
        lines.append(
            f"| {row['link']} | {row['machines']} | {row['tokens_per_second']:,.0f} | {row['efficiency']:.0%} "
            f"| {row['local_steps']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", default="lstm")
    parser.add_argument("--vocabulary", type=int, default=PARAMS.tokenize.vocab_size)
    parser.add_argument(
        "--batch-size", type=int, default=PARAMS.train.data.batch_size, help="of all processes together"
    )
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--steps", type=int, default=10, help="of a round")
    parser.add_argument("--page", type=Path, help="a page with the marks of the tables")
    add_json_option(parser)
    arguments = parser.parse_args()
    base = alternate(arguments)
    larger = [alternate(arguments, times) for times in LARGER]
    links = over_links(arguments, base) if permitted() else {}
    tokens = arguments.batch_size * PARAMS.train.data.sequence_length
    figures = {"two_processes": base, "larger": larger, "links": links, "machines": extrapolate(base, links, tokens)}
    print(tables(figures))
    write_figures(arguments.json, figures)
    if arguments.page:
        write_page(arguments.page, figures)


def write_page(page: Path, figures: dict[str, Any]) -> None:
    page.write_text(MARKS.sub(lambda _: tables(figures), page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
