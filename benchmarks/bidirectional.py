"""Does `bidirectional=True` make training faster? Training steps of torch's LSTM with one direction and with two.

The two take turns in one process, in short blocks, because a shared machine is quicker now and slower then; a figure is
the median over blocks, and the ratio that over pairs of neighbouring blocks. Once with the same hidden size, which
doubles the outputs; once with a smaller one, so that both have about as many parameters.

    python benchmarks/bidirectional.py --json benchmarks/results/bidirectional.json
    python benchmarks/bidirectional.py --hidden-size 64 --blocks 5
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from common import add_json_option, seconds, write_figures
from torch import nn

from recurlm.errors import exit_cleanly
from recurlm.model import count_parameters

ROWS, TIME, INPUTS = 16, 64, 128


def training_step(lstm: nn.LSTM) -> Callable[[], None]:
    """Forward, backward and update on random features."""
    optimizer, x = torch.optim.SGD(lstm.parameters(), lr=0.01), torch.randn(ROWS, TIME, INPUTS)

    def step() -> None:
        optimizer.zero_grad()
        y, _ = lstm(x)
        y.square().mean().backward()
        optimizer.step()

    return step


def smaller(parameters: int) -> int:
    """The largest hidden size of a bidirectional LSTM with at most so many parameters."""
    hidden = 1
    while count_parameters(nn.LSTM(INPUTS, hidden + 1, bidirectional=True, device="meta")) <= parameters:
        hidden += 1
    return hidden


def measure(one: nn.LSTM, two: nn.LSTM, blocks: int, steps: int) -> dict[str, Any]:
    first, second = training_step(one), training_step(two)
    first(), second()
    pairs = [
        tuple(1000 * seconds(lambda step=step: [step() for _ in range(steps)]) / steps for step in (first, second))  # type: ignore[misc]
        for _ in range(blocks)
    ]
    return {
        "hidden_size": [one.hidden_size, two.hidden_size],
        "outputs": [one.hidden_size, 2 * two.hidden_size],
        "parameters": [count_parameters(one), count_parameters(two)],
        "milliseconds": [statistics.median(pair[number] for pair in pairs) for number in (0, 1)],
        "ratio": statistics.median(pair[1] / pair[0] for pair in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--hidden-size", type=int, default=256)
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=3, help="of training in a block")
    parser.add_argument("--threads", type=int, default=1)
    add_json_option(parser)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(1)
    figures: dict[str, Any] = {}
    print("| | hidden size, one → two directions | parameters | ms a step | ratio |\n|---|--:|--:|--:|--:|")
    for name in ("the same hidden size", "about the same parameters"):
        one = nn.LSTM(INPUTS, arguments.hidden_size, batch_first=True)
        hidden = smaller(count_parameters(one)) if figures else arguments.hidden_size
        two = nn.LSTM(INPUTS, hidden, batch_first=True, bidirectional=True)
        row = figures[name] = measure(one, two, arguments.blocks, arguments.steps)
        pairs = (row["hidden_size"], [f"{n:,}" for n in row["parameters"]], [f"{t:.1f}" for t in row["milliseconds"]])
        print(f"| {name} |", " | ".join(f"{a} → {b}" for a, b in pairs), f"| {row['ratio']:.2f} |", flush=True)
    write_figures(arguments.json, {"rows": ROWS, "time": TIME, "inputs": INPUTS, "training": figures})


if __name__ == "__main__":
    exit_cleanly(main)
