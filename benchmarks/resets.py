"""What it costs to reset the state where a document begins: tokens/s of training with and without.

Documents of 40 tokens in windows of 48, so that some row is reset at nearly every step of a window. Whole training
steps of the variants of params.yaml, with its settings, on random tokens; `reset_at_bos: true` and `false` take turns
in one process, in short blocks, because a shared machine is quicker now and slower then. The ratio is the median over
pairs of neighbouring blocks. On a busy machine `--cpu-time` counts the process's own time on one thread.

    python benchmarks/resets.py
    python benchmarks/resets.py --cpu-time
    python benchmarks/resets.py --variants lstm --blocks 30 --json benchmarks/results/resets.json
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from common import PARAMS, add_json_option, configure, parse_changes, seconds, write_figures

from recurlm.config import ModelConfig, TrainConfig, override
from recurlm.errors import exit_cleanly
from recurlm.model import build
from recurlm.stage import make_deterministic
from recurlm.training.batches import BatchIterator, Stream
from recurlm.training.loop import train_step
from recurlm.training.optimizer import optimizers, precision
from recurlm.training.regularization import WeightAverage
from recurlm.training.state import TrainResult, TrainState

SPECIAL = {"bos": 0, "mask": 1}
DOCUMENT = 40  # tokens, <bos> among them
WARMUP = 3  # steps
Step = Callable[[], object]
Clock = Callable[[], float]


def documents(vocab_size: int, tokens: int) -> np.ndarray:
    """Ids of random text, <bos> at every 40th."""
    ids = np.random.default_rng(0).integers(len(SPECIAL), vocab_size, tokens)
    ids[::DOCUMENT] = SPECIAL["bos"]
    return ids


def training(name: str, model_config: ModelConfig, train: TrainConfig, ids: np.ndarray, vocab_size: int) -> Step:
    """A whole training step on the next window: forward, backward, clip, update."""
    torch.manual_seed(train.seed)
    model = build(name, model_config, vocab_size)
    model.train()
    state = TrainState(
        model,
        optimizers(model, train.optimizer, model_config.muon_lr, model_config.adamw_lr),
        WeightAverage(model, train.regularization),
        BatchIterator(Stream(ids, train.data.batch_size, train.data.sequence_length)),
        TrainResult(precision=precision(train.precision, torch.device("cpu"))),
    )

    def step() -> None:
        train_step(state, state.batches.peek(), SPECIAL, train, model_config.weight_drop)
        state.batches.advance()
        state.step += 1

    return step


def measure(with_resets: Step, without: Step, tokens: int, blocks: int, steps: int, clock: Clock) -> dict[str, float]:
    """Medians over blocks of steps, and of the ratios of pairs of blocks; which one comes first changes each time."""

    def block(step: Step) -> float:
        return tokens * steps / seconds(lambda: [step() for _ in range(steps)], clock)

    for _ in range(WARMUP):
        with_resets(), without()
    pairs = []
    for number in range(blocks):
        order = (with_resets, without) if number % 2 else (without, with_resets)
        speeds = {step: block(step) for step in order}
        pairs.append((speeds[with_resets], speeds[without]))
    return {
        "tokens_per_second_with_resets": statistics.median(pair[0] for pair in pairs),
        "tokens_per_second_without": statistics.median(pair[1] for pair in pairs),
        "ratio": statistics.median(pair[0] / pair[1] for pair in pairs),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["rnn", "gru", "lstm"])
    parser.add_argument("--blocks", type=int, default=20)
    parser.add_argument("--steps", type=int, default=2, help="of training in a block")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="of train or of the variants' blocks")
    parser.add_argument("--cpu-time", action="store_true", help="CPU time of one thread in place of the clock's")
    add_json_option(parser)
    arguments = parser.parse_args()
    clock = time.process_time if arguments.cpu_time else time.perf_counter
    make_deterministic(1 if arguments.cpu_time else PARAMS.train.machine.threads)
    vocab_size, figures = PARAMS.tokenize.vocab_size, {}
    print("| variant | tokens/s with resets | without | ratio |\n|---|--:|--:|--:|")
    for name in arguments.variants:
        train, model_config = configure(PARAMS.variant(name), parse_changes(arguments.set))
        size = train.data.batch_size, train.data.sequence_length
        ids = documents(vocab_size, 20 * size[0] * size[1])

        def made(reset: bool, name=name, train=train, model_config=model_config, ids=ids) -> Step:  # type: ignore[no-untyped-def]
            return training(name, model_config, override(train, {"data.reset_at_bos": reset}), ids, vocab_size)

        row = measure(made(True), made(False), size[0] * size[1], arguments.blocks, arguments.steps, clock)
        figures[name] = row
        with_resets, without = row["tokens_per_second_with_resets"], row["tokens_per_second_without"]
        print(f"| {name} | {with_resets:,.0f} | {without:,.0f} | {row['ratio']:.3f} |", flush=True)
    write_figures(arguments.json, {"document_tokens": DOCUMENT, "clock": clock.__name__, "variants": figures})


if __name__ == "__main__":
    exit_cleanly(main)
