"""How much of the machine a training step uses: recurlm's, and that of a plain loop around torch's module.

Each is measured in a process of its own, in turns with the machine's rate for a product of bf16 matrices, since on a
shared machine both go up and down together:

    python benchmarks/throughput.py                      # a table, and its figures as one line of JSON
    python benchmarks/throughput.py --variants lstm --hidden 256
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

VOCABULARY = 84
PARAMS = Path(__file__).parents[1] / "params.yaml"
PLAIN = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
Step = Callable[[], None]


def recurlm_step(variant: str, hidden: int, batch: int, time_steps: int) -> tuple[Step, float]:
    """A whole step as the stage `train` makes it, with its recipe: forward, backward, clip, Muon and AdamW."""
    from recurlm.training.step import make_task, update

    from recurlm.config import Variant, load
    from recurlm.model import build, count_parameters
    from recurlm.training.machine import tune_malloc
    from recurlm.training.optimizer import optimizers, precision

    tune_malloc()
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False
    size = hidden // 2 if variant == "bilstm" else hidden
    block = Variant(cell=variant, embedding_size=hidden, hidden_size=size, layers=2)
    model, recipe = build(variant, block, VOCABULARY), load(PARAMS).train
    updates = optimizers(model, recipe, block.muon_lr, block.adamw_lr)
    arithmetic = precision("auto", torch.device("cpu"))
    begins = torch.zeros(batch, time_steps, dtype=torch.bool)
    window = torch.randint(2, VOCABULARY, (batch, time_steps + 1))
    state = model.initial_state(batch)
    model.train()

    def step() -> None:
        nonlocal state
        task = make_task(model, window, 1, recipe.mask_prob)
        _, state = update(model, task, begins, state, recipe, block, updates, arithmetic, batch)

    return step, 6.0 * count_parameters(model) * batch * time_steps


def plain_step(variant: str, hidden: int, batch: int, time_steps: int, bf16: bool) -> tuple[Step, float]:
    """What people write: the module, a linear layer, cross_entropy, AdamW."""
    embedding, cell = nn.Embedding(VOCABULARY, hidden), PLAIN[variant](hidden, hidden, 2, batch_first=True)
    decoder = nn.Linear(hidden, VOCABULARY)
    decoder.weight = embedding.weight
    parts = nn.ModuleList([embedding, cell, decoder])
    optimizer = torch.optim.AdamW(parts.parameters(), lr=0.001)
    window = torch.randint(2, VOCABULARY, (batch, time_steps + 1))

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y, _ = cell(embedding(window[:, :-1]))
            logits = decoder(y)
        F.cross_entropy(logits.float().flatten(0, 1), window[:, 1:].flatten()).backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    parameters = sum(parameter.numel() for parameter in parts.parameters())
    return step, 6.0 * parameters * batch * time_steps


def seconds(step: Callable[[], object]) -> float:
    started = time.perf_counter()
    step()
    return time.perf_counter() - started


def measure(step: Step, operations: float, tokens: int, repeats: int) -> dict[str, float]:
    """Medians over rounds; a round is one training step between two products."""
    a, b = torch.randn(2, 2048, 2048).bfloat16()
    for _ in range(3):
        step()
        a @ b
    shares, rates = [], []
    for _ in range(repeats):
        product = min(seconds(lambda: a @ b) for _ in range(3))
        spent = seconds(step)
        product = min(product, *(seconds(lambda: a @ b) for _ in range(3)))
        rates.append(tokens / spent)
        shares.append(operations / spent / (2 * 2048**3 / product))
    return {"tokens_per_second": statistics.median(rates), "share_of_bf16_matmul": statistics.median(shares)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["lstm", "gru", "rnn", "bilstm"])
    parser.add_argument(
        "--hidden", type=int, default=512, help="units in each of 2 layers (bilstm: half of them a side)"
    )
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--time", type=int, default=128, help="tokens in a window")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--one", choices=["recurlm", "plain fp32", "plain bf16"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        torch.manual_seed(1)
        size = arguments.variants[0], arguments.hidden, arguments.batch, arguments.time
        made = recurlm_step(*size) if arguments.one == "recurlm" else plain_step(*size, arguments.one == "plain bf16")
        print(json.dumps(measure(*made, arguments.batch * arguments.time, arguments.repeats)))
        return

    figures: dict[str, dict[str, dict[str, float]]] = {}
    print(f"2 × {arguments.hidden}, batch {arguments.batch} × {arguments.time}, {torch.get_num_threads()} threads\n")
    print("| variant | loop | tokens/s | share of the bf16 product's rate |\n|---|---|---|---|")
    for variant in arguments.variants:
        for way in ("plain fp32", "plain bf16", "recurlm"):
            if way != "recurlm" and variant not in PLAIN:
                continue
            sizes = {"hidden": arguments.hidden, "batch": arguments.batch, "time": arguments.time}
            options = [f"--{name}={value}" for name, value in (sizes | {"repeats": arguments.repeats}).items()]
            command = [sys.executable, __file__, "--one", way, "--variants", variant, *options]
            found = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            figures.setdefault(variant, {})[way] = found
            speed, share = found["tokens_per_second"], found["share_of_bf16_matmul"]
            print(f"| {variant} | {way} | {speed:,.0f} | {share:.0%} |", flush=True)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
