"""What each cell can remember: synthetic tasks with short sequences in training and longer ones in the test.

Two residual blocks with a short convolution around every cell, the same width, the same steps, the same learning rates
to choose from and the same seeds. The rate with the best mean validation score at the lengths of training is taken; the
test sequences are others. A score is 0 for guessing and 1 for no error: (accuracy − chance) / (1 − chance), and of
`adding` 1 − the mean squared error over that of the best constant.

    python benchmarks/memory_tasks.py --cells lstm deltanet:beta_max=2 --tasks parity s3
    python benchmarks/memory_tasks.py --json benchmarks/results/memory_tasks.json --picture docs/plots/memory_tasks.png
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import altair
import torch
from common import PARAMS, add_json_option, parse_changes, seconds, write_figures
from tasks import TASKS, Batch, Task
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.config import ModelConfig
from recurlm.errors import InputError, exit_cleanly, nearest
from recurlm.model import build, count_parameters
from recurlm.report.drawing import Chart, finish, png
from recurlm.stage import make_deterministic
from recurlm.variants import REGISTRY

RATES = (0.003, 0.01)
VALIDATION_SEED, TEST_SEED = 1_000_001, 1_000_002  # of sequences; training uses the runs' own seeds
TITLE = "Memory tasks: 0 is guessing, 1 is no error"


class Reader(nn.Module):
    """A cell's blocks between what reads the inputs of a task and what answers."""

    def __init__(self, config: ModelConfig, task: Task) -> None:
        super().__init__()
        width = config.embedding_size
        self.recurrence = build(config.cell, config, 2).recurrence
        self.read = nn.Embedding(task.vocabulary, width) if task.vocabulary else nn.Linear(2, width)
        self.answer = nn.Linear(self.recurrence.output_size, task.vocabulary or 1)

    def forward(self, inputs: Tensor) -> Tensor:
        y, _ = self.recurrence(self.read(inputs), self.recurrence.initial_state(len(inputs)))
        return self.answer(y)  # type: ignore[no-any-return]


def loss(model: Reader, batch: Batch) -> Tensor:
    inputs, targets, counted = batch
    answers = model(inputs)[counted]
    if answers.shape[1] == 1:
        return F.mse_loss(answers[:, 0], targets[counted])
    return F.cross_entropy(answers, targets[counted])


@torch.no_grad()
def score(model: Reader, task: Task, length: int, rows: int, seed: int) -> float:
    """0 for guessing, 1 for no error; below 0 for worse than guessing."""
    inputs, targets, counted = task.make(rows, length, torch.Generator().manual_seed(seed + length))
    if task.running:
        counted[:, :-1] = False
    answers, right = model(inputs)[counted], targets[counted]
    if not task.vocabulary:
        return 1 - float(F.mse_loss(answers[:, 0], right)) / task.chance
    return (float((answers.argmax(dim=1) == right).float().mean()) - task.chance) / (1 - task.chance)


def train(config: ModelConfig, task: Task, lr: float, seed: int, steps: int, rows: int) -> Reader:
    """A model after `steps` of AdamW, at a rate that falls to zero, each at a random length of training."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    model = Reader(config, task)
    optimizer = torch.optim.AdamW(model.parameters(), lr=lr, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    shortest, longest = task.train
    for _ in range(steps):
        length = int(torch.randint(shortest, longest + 1, (1,), generator=random))
        optimizer.zero_grad()
        loss(model, task.make(rows, length, random)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval()


def measure(cell: str, task: Task, arguments: argparse.Namespace) -> dict[str, Any]:
    """The scores of one cell on one task, with the rate that validation sequences chose."""
    config, models, validation = configured(cell, arguments.width), {}, {}
    for lr in RATES:
        seeds = range(1, arguments.seeds + 1)
        models[lr] = [train(config, task, lr, seed, arguments.steps, arguments.batch_size) for seed in seeds]
        scores = [score(model, task, task.train[1], arguments.test_rows, VALIDATION_SEED) for model in models[lr]]
        validation[lr] = statistics.fmean(scores)
    best = max(validation, key=lambda lr: validation[lr])
    return {
        "parameters": count_parameters(models[best][0]),
        "learning_rate": best,
        "validation": {f"{lr:g}": value for lr, value in validation.items()},
        "scores": [
            {
                "length": length,
                "by_seed": [score(model, task, length, arguments.test_rows, TEST_SEED) for model in models[best]],
            }
            for length in task.test
        ],
    }


def configured(name: str, width: int) -> ModelConfig:
    """Two residual blocks with a short convolution around the cell, without dropout.

    Args:
        name: a cell, and values of its own: `deltanet:beta_max=2`.
    """
    cell, *changes = name.split(":")
    if cell not in REGISTRY:
        raise InputError(f"--cells {cell}: {nearest(cell, REGISTRY)}")
    own = {"cell": cell, "hidden_size": width, "embedding_size": width, "layers": 2, "concat_layers": False}
    return ModelConfig(**PARAMS.model | own | {"block": "residual", "conv": 4} | parse_changes(changes))


def chart(figures: dict[str, Any]) -> Chart:
    """A heat map: a row a cell, a column a task and a length, the mean over seeds."""
    rows = [
        {"cell": cell, "task": f"{task} {at['length']}", "score": max(0.0, statistics.fmean(at["by_seed"]))}
        for cell, tasks in figures["cells"].items()
        for task, row in tasks.items()
        for at in row["scores"]
    ]
    base = altair.Chart(altair.InlineData(values=rows)).encode(
        x=altair.X("task:N", title="task and length; the first of each is within training", sort=None),
        y=altair.Y("cell:N", title=None, sort=None),
    )
    scale = altair.Scale(scheme="viridis", domain=[0, 1])
    cells = base.mark_rect().encode(color=altair.Color("score:Q", title="score", scale=scale))
    ink = altair.condition("datum.score > 0.6", altair.value("black"), altair.value("white"))
    words = base.mark_text(fontSize=9).encode(text=altair.Text("score:Q", format=".2f"), color=ink)
    height = 40 + 22 * len(figures["cells"])
    return Chart("", finish(altair.layer(cells, words), height=height), ())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", nargs="+", default=list(REGISTRY))
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--test-rows", type=int, default=256)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the scores as PNG")
    add_json_option(parser)
    arguments = parser.parse_args()
    make_deterministic(arguments.threads)
    settings = ("width", "steps", "batch_size", "test_rows", "seeds")
    cells: dict[str, Any] = {cell: {} for cell in arguments.cells}
    figures = {key: getattr(arguments, key) for key in settings} | {"learning_rates": RATES, "cells": cells}
    print("| cell | task | parameters | rate | score at the length, mean over seeds | s |\n|---|---|--:|--:|---|--:|")
    for cell in arguments.cells:
        for name in arguments.tasks:

            def measured(cell: str = cell, name: str = name) -> None:
                cells[cell][name] = measure(cell, TASKS[name], arguments)

            elapsed = seconds(measured)
            row = cells[cell][name]
            shown = ", ".join(f"{at['length']}: {statistics.fmean(at['by_seed']):.2f}" for at in row["scores"])
            head = f"| {cell} | {name} | {row['parameters']:,} | {row['learning_rate']:g} |"
            print(head, shown, f"| {elapsed:.0f} |", flush=True)
            write_figures(arguments.json, figures)  # what is done stays, if the rest is stopped
    if arguments.picture:
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        arguments.picture.write_bytes(png(chart(figures), TITLE))


if __name__ == "__main__":
    exit_cleanly(main)
