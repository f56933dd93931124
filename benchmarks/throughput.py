"""How much of the machine a training step uses: recurlm's, and that of a plain loop around torch's module.

Each is measured in a process of its own, in turns with the machine's rate for a product of matrices, in bf16 where it
has that and else in fp32, since on a shared machine both go up and down together:

    python benchmarks/throughput.py --json benchmarks/results/throughput.json
    python benchmarks/throughput.py --variants lstm --hidden-size 256

With --blocks every cell of params.yaml and zoo.yaml in two residual blocks of one width, one after another in one
process, and how much faster `forward` reads 512 elements than `step` in a loop:

    python benchmarks/throughput.py --blocks --json benchmarks/results/zoo_throughput.json
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable

import torch
from common import PARAMS, ROOT, add_json_option, seconds, square_matrices, write_figures
from torch import nn
from torch.nn import functional as F

from recurlm.config import ModelConfig, override
from recurlm.model import build, count_parameters
from recurlm.strict_yaml import load_yaml
from recurlm.training.optimizer import has_bf16

VOCABULARY = 84
SPECIAL = {"bos": 0, "mask": 1}
BLOCKS = {"block": "residual", "conv": 4, "mlp_ratio": 2.0, "layers": 2, "concat_layers": False}
BLOCKS_WIDTH, BLOCKS_BATCH, BLOCKS_TIME, READ = 384, 32, 64, 512
ZOO = load_yaml(ROOT / "zoo.yaml")["variants"]
PLAIN = {"rnn": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
Step = Callable[[], None]


def of_width(variant: str, hidden: int) -> ModelConfig:
    """A variant with two layers of one width."""
    block = PARAMS.variant(variant)
    size = hidden // 2 if block.bidirectional else hidden
    return override(block, {"embedding_size": hidden, "hidden_size": size, "layers": 2, "concat_layers": False})


def in_blocks(variant: str, width: int) -> ModelConfig:
    """A variant's cell in residual blocks, its heads as wide as in zoo.yaml."""
    values = PARAMS.model | ZOO[variant] if variant in ZOO else PARAMS.variant(variant).model_dump()
    heads = {"heads": values["heads"] * width // values["hidden_size"]} if "heads" in values else {}
    return ModelConfig(**(values | BLOCKS | heads | {"embedding_size": width, "hidden_size": width}))


def recurlm_step(variant: str, block: ModelConfig, batch: int, time_steps: int) -> tuple[Step, float]:
    """A whole step as the stage `train` makes it, with its settings: forward, backward, clip, Muon and AdamW."""
    from recurlm.stage import make_deterministic
    from recurlm.training.batches import BatchIterator, Stream
    from recurlm.training.loop import train_step
    from recurlm.training.optimizer import optimizers, precision
    from recurlm.training.regularization import WeightAverage
    from recurlm.training.state import TrainResult, TrainState

    make_deterministic(PARAMS.train.machine.threads)
    train = override(PARAMS.train, {"data.batch_size": batch, "data.sequence_length": time_steps})
    model = build(variant, block, VOCABULARY)
    model.train()
    ids = torch.randint(len(SPECIAL), VOCABULARY, (batch * (time_steps + 1),)).numpy()
    state = TrainState(
        model,
        optimizers(model, train.optimizer, block.muon_lr, block.adamw_lr),
        WeightAverage(model, train.regularization),
        BatchIterator(Stream(ids, batch, time_steps)),
        TrainResult(precision=precision(train.precision, torch.device("cpu"))),
    )
    window = state.batches.peek()

    def step() -> None:
        train_step(state, window, SPECIAL, train, block.weight_drop)
        state.batches.cursor.window = 1  # not at the begin of an epoch, so that the state goes on

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


def measure(step: Step, operations: float, tokens: int, repeats: int) -> dict[str, float]:
    """Medians over rounds; a round is one training step between two products."""
    a, b = square_matrices()
    for _ in range(3):
        step()
        a @ b
    fractions, rates = [], []
    for _ in range(repeats):
        product = min(seconds(lambda: a @ b) for _ in range(3))
        spent = seconds(step)
        product = min(product, *(seconds(lambda: a @ b) for _ in range(3)))
        rates.append(tokens / spent)
        fractions.append(operations / spent / (2 * len(a) ** 3 / product))
    return {"tokens_per_second": statistics.median(rates), "matmul_fraction": statistics.median(fractions)}


def step_over_forward(variant: str, repeats: int) -> float:
    """How many times as long `step` in a loop takes as `forward`: one sequence, in fp32, without gradients."""
    torch.manual_seed(1)
    recurrence = build(variant, in_blocks(variant, BLOCKS_WIDTH), VOCABULARY).recurrence.eval()
    x, start = torch.randn(1, READ, BLOCKS_WIDTH), recurrence.initial_state(1)

    def steps() -> None:
        state = start
        for element in x.unbind(1):
            _, state = recurrence.step(element, state)

    with torch.inference_mode():
        steps()
        ratios = [seconds(steps) / min(seconds(lambda: recurrence(x, start)) for _ in range(3)) for _ in range(repeats)]
    return statistics.median(ratios)


def measure_blocks(variants: list[str], repeats: int) -> dict[str, dict[str, float]]:
    """Share of the product's rate in training, and `step` over `forward`, cell by cell."""
    figures = {}
    print("| cell | tokens/s | fraction of the product's rate | step / forward |\n|---|--:|--:|--:|")
    for variant in variants:
        torch.manual_seed(1)
        made = recurlm_step(variant, in_blocks(variant, BLOCKS_WIDTH), BLOCKS_BATCH, BLOCKS_TIME)
        row = measure(*made, BLOCKS_BATCH * BLOCKS_TIME, repeats)
        row["step_over_forward"] = step_over_forward(variant, 3)
        figures[variant] = row
        speed, fraction, ratio = row.values()
        print(f"| {variant} | {speed:,.0f} | {fraction:.0%} | {ratio:.0f} |", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", help="default: those of params.yaml; with --blocks, all")
    parser.add_argument("--blocks", action="store_true", help="in residual blocks of width 384, batch 32 × 64")
    parser.add_argument(
        "--hidden-size", type=int, default=512, help="of each of 2 layers (bidirectional: half of it a side)"
    )
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--sequence-length", type=int, default=128, help="tokens in a window")
    parser.add_argument("--repeats", type=int, default=9)
    add_json_option(parser)
    parser.add_argument("--one", choices=["recurlm", "plain fp32", "plain bf16"], help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.blocks:
        causal = [name for name, block in PARAMS.variants.items() if not block.bidirectional]
        cells = measure_blocks(arguments.variants or [*causal, *ZOO], arguments.repeats)
        write_figures(arguments.json, {"width": BLOCKS_WIDTH, "cells": cells})
        return
    arguments.variants = arguments.variants or list(PARAMS.variants)
    if arguments.one:
        torch.manual_seed(1)
        variant, hidden = arguments.variants[0], arguments.hidden_size
        size = arguments.batch_size, arguments.sequence_length
        if arguments.one == "recurlm":
            made = recurlm_step(variant, of_width(variant, hidden), *size)
        else:
            made = plain_step(variant, hidden, *size, arguments.one == "plain bf16")
        print(json.dumps(measure(*made, arguments.batch_size * arguments.sequence_length, arguments.repeats)))
        return

    figures: dict[str, dict[str, dict[str, float]]] = {}
    batch = f"{arguments.batch_size} × {arguments.sequence_length}"
    print(f"2 × {arguments.hidden_size}, batch {batch}, {torch.get_num_threads()} threads\n")
    print("| variant | loop | tokens/s | fraction of the product's rate |\n|---|---|---|---|")
    for variant in arguments.variants:
        for way in ("plain fp32", "plain bf16", "recurlm"):
            if (way != "recurlm" and variant not in PLAIN) or (
                way == "plain bf16" and not has_bf16(torch.device("cpu"))
            ):
                continue
            options = [
                f"--{name}={vars(arguments)[name.replace('-', '_')]}"
                for name in ("hidden-size", "batch-size", "sequence-length", "repeats")
            ]
            command = [sys.executable, __file__, "--one", way, "--variants", variant, *options]
            row = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
            figures.setdefault(variant, {})[way] = row
            speed, fraction = row["tokens_per_second"], row["matmul_fraction"]
            print(f"| {variant} | {way} | {speed:,.0f} | {fraction:.0%} |", flush=True)
    write_figures(arguments.json, {"variants": figures})


if __name__ == "__main__":
    main()
