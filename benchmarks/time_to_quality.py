"""How good a recurrent model is after so many seconds, counted from the start of the process.

    python benchmarks/time_to_quality.py --corpus input.txt --budget 60      # seconds; also 600 and 3600
    python benchmarks/time_to_quality.py --corpus input.txt --budget 60 --seeds 3      # one run after the other
    python benchmarks/time_to_quality.py --corpus input.txt --budget 60 --tune
    python benchmarks/time_to_quality.py --corpus data/corpus --words 10000 --budget 75 --target 61.1

A text file is read character by character: the first 90 % of it trains, the rest is scored, as nanoGPT does. With
`--tune` that rest is not touched: the last 10 % of the first part are scored in its place, and settings are chosen
there. A folder of the stage `fetch` is read word by word, its validation split is scored; with `--tune`, the last of
its documents to train on.

Two protocols: `streamed` reads all in one, the state carried on; `cold_256` is the mean over windows of 256 tokens,
each from a zero state, as a model with a context of 256 sees them. On its way the run only keeps copies of its weights;
they are scored once it is over, so that a point of the curve costs no time within the budget.

The last line of output is one line of JSON; `--json FILE` keeps it with all points. Beside seconds it has what does not
hang on the machine: steps, epochs, and the operations of the products. Of several seeds it has the mean, the standard
deviation and each value, beside the figures of the first. Settings are those of params.yaml
with what SETTINGS below replaces, and KEY=VALUE on the command line after that: `data.batch_size=64 hidden_size=256`.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

OPENED = time.time()


def process_started() -> float:
    """When this process began, before Python itself was loaded; elsewhere than on Linux, when this file was."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        up = float(Path("/proc/uptime").read_text().split()[0])
        return time.time() - up + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return OPENED


STARTED = process_started()

import numpy as np  # noqa: E402
import torch  # noqa: E402
from common import (  # noqa: E402
    PARAMS,
    add_json_option,
    command,
    configure,
    parse_changes,
    seconds,
    square_matrices,
    write_figures,
)
from torch.nn import functional as F  # noqa: E402

from recurlm.config import ModelConfig, Tokenize, TrainConfig, override  # noqa: E402
from recurlm.corpus.reader import open_split  # noqa: E402
from recurlm.errors import InputError, exit_cleanly  # noqa: E402
from recurlm.evaluation.perplexity import score  # noqa: E402
from recurlm.model import LanguageModel, build, count_parameters  # noqa: E402
from recurlm.storage import read_json  # noqa: E402
from recurlm.tokens.special import special_ids  # noqa: E402
from recurlm.tokens.tokenizer import learn_tokenizer  # noqa: E402
from recurlm.training.batches import Stream  # noqa: E402
from recurlm.training.estimate import work_of  # noqa: E402
from recurlm.training.loop import train  # noqa: E402
from recurlm.training.machine import tune_malloc  # noqa: E402

WINDOW = 256

# The settings of the largest budget that is not above the one asked for. Those of a minute, and of words, were chosen
# by trials with --tune, those of ten minutes by one such trial; larger ones are guesses from there. Windows are scored
# from a zero state, so a quarter of the states are reset at each step. Keys are those of `train` and of a
# variant's block.
CHARACTERS = {
    "data.batch_size": 32,
    "data.sequence_length": 64,
    "data.state_reset_prob": 0.25,
    "optimizer.momentum": 0.9,
    "optimizer.orthogonalize_every": 2,
    "optimizer.weight_decay": 0.1,
    "embedding_size": 64,
    "muon_lr": 0.02,
    "adamw_lr": 0.008,
}
WORDS = {
    "data.batch_size": 32,
    "data.sequence_length": 35,
    "data.state_reset_prob": 0.05,
    "optimizer.momentum": 0.9,
    "optimizer.orthogonalize_every": 2,
    "optimizer.weight_decay": 0.3,
    "sampled_softmax": 500,
    "embedding_size": 96,
    "hidden_size": 192,
    "muon_lr": 0.01,
    "adamw_lr": 0.02,
}
SETTINGS: dict[str, dict[float, dict[str, float]]] = {
    "characters": {
        0: {**CHARACTERS, "hidden_size": 192},
        600: {**CHARACTERS, "hidden_size": 256, "dropout": 0.15, "input_dropout": 0.05},
        1200: {**CHARACTERS, "hidden_size": 320, "dropout": 0.25, "input_dropout": 0.05},
        3600: {**CHARACTERS, "hidden_size": 384, "dropout": 0.4, "input_dropout": 0.1},
    },
    "words": {0: WORDS},
}


class Text(NamedTuple):
    """What is learned from and what is scored, as ids, each document begun by `<bos>`."""

    training: np.ndarray
    scored: np.ndarray
    starts: np.ndarray  # of the scored documents, and their end
    vocab_size: int
    special: dict[str, int]


def characters(path: Path, tune: bool) -> Text:
    """The 90/10 split of a text file."""
    text = path.read_text(encoding="utf-8")
    text, rest = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
    if tune:
        text, rest = text[: int(0.9 * len(text))], text[int(0.9 * len(text)) :]
    return encode([text], [rest], override(PARAMS.tokenize, {"kind": "char"}))


def words(folder: Path, vocab_size: int, tune: bool) -> Text:
    """The train and validation splits of a corpus that `fetch` made."""
    training, validation = (
        ["".join(pieces) for pieces in open_split(folder, split).documents()] for split in ("train", "validation")
    )
    if tune:
        held_out = max(1, len(training) // 20)
        training, validation = training[:-held_out], training[-held_out:]
    return encode(training, validation, override(PARAMS.tokenize, {"kind": "word", "vocab_size": vocab_size}))


def encode(training: list[str], scored: list[str], kind: Tokenize) -> Text:
    tokenizer = learn_tokenizer(training, kind)
    special = special_ids(tokenizer)

    def ids(texts: list[str]) -> tuple[np.ndarray, np.ndarray]:
        parts = [np.array([special["bos"], *encoding.ids]) for encoding in tokenizer.encode_batch_fast(texts)]
        return np.concatenate(parts), np.cumsum([0, *map(len, parts)])

    scored_ids, starts = ids(scored)
    return Text(ids(training)[0], scored_ids, starts, tokenizer.get_vocab_size(), special)


def cold(model: LanguageModel, ids: np.ndarray) -> float:
    """Mean nats per token over all whole windows, each read from a zero state."""
    count = (len(ids) - 2) // WINDOW
    tokens = torch.from_numpy(ids[1 : 2 + count * WINDOW].astype(np.int64))  # <bos> is no part of a window
    inputs, targets = tokens[:-1].view(count, WINDOW), tokens[1:].view(count, WINDOW)
    total, training = 0.0, model.training
    model.eval()
    with torch.no_grad():
        for rows, expected in zip(inputs.split(64), targets.split(64), strict=True):
            logits, _ = model(rows, model.initial_state(len(rows)))
            total += F.cross_entropy(logits.flatten(0, 1), expected.flatten(), reduction="sum").item()
    model.train(training)
    return total / inputs.numel()


def streamed(model: LanguageModel, text: Text) -> float:
    nats, tokens = score(model, text.scored, text.starts, 4096, 512, 64)
    return nats / tokens


def scores(model: LanguageModel, text: Text, words: bool) -> dict[str, float]:
    losses = {"loss_streamed": streamed(model, text)}
    return losses if words else {**losses, f"loss_cold_{WINDOW}": cold(model, text.scored)}


def matmul_rate() -> float:
    """Operations a second of a product of matrices on this machine."""
    a, b = square_matrices()
    return 2 * len(a) ** 3 / min(seconds(lambda: a @ b) for _ in range(5))


def settings(kind: str, budget: float, changes: list[str]) -> tuple[TrainConfig, ModelConfig]:
    """What a run of a budget is trained with, and what the command line changes in it."""
    table = SETTINGS[kind]
    tuned = table[max(least for least in table if least <= budget)]
    evaluations = {"evaluation.num_evals": 6 if budget < 300 else 12}
    return configure(PARAMS.variant("lstm"), evaluations | tuned | parse_changes(changes))


def operations_a_step(config: TrainConfig, block: ModelConfig, vocab_size: int, stream: Stream) -> float:
    """Multiplications and additions of a step's products, the optimizer's among them."""
    work = work_of("lstm", block, config, vocab_size, stream, 0)
    assert work is not None
    return work.operations / work.steps


def several(arguments: argparse.Namespace) -> None:
    """A run a seed, each in a process of its own, whose clock begins with it."""
    options = {name: getattr(arguments, name) for name in ("corpus", "budget", "words", "target", "steps")}
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        for seed in range(1, arguments.seeds + 1):
            file = Path(folder) / f"{seed}.json"
            program = [sys.executable, __file__, *given, *(["--tune"] if arguments.tune else []), *arguments.changes]
            done = subprocess.run([*program, "--seed", str(seed), "--json", str(file)], stdout=subprocess.DEVNULL)
            if done.returncode:
                sys.exit(done.returncode)
            runs.append(read_json(file))
    names = [
        name for name in runs[0] if name.startswith("loss") or name in ("perplexity", "steps", "epochs", "operations")
    ]
    seeds = {name: [run[name] for run in runs] for name in names}
    summary = {
        name: {"mean": statistics.fmean(values), "spread": statistics.stdev(values), "values": values}
        for name, values in seeds.items()
    }
    write_figures(arguments.json, {**runs[0], "command": command(), "seeds": summary})
    print(json.dumps({"budget": arguments.budget, "seeds": summary}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--budget", type=float, default=60, help="seconds from the start of the process")
    parser.add_argument("--words", type=int, metavar="SIZE", help="read words: a vocabulary of that size")
    parser.add_argument("--tune", action="store_true", help="score a part of the training text, to choose settings")
    parser.add_argument("--target", type=float, metavar="PERPLEXITY", help="say when the curve first came below it")
    add_json_option(parser)
    parser.add_argument("--steps", type=int, help="in place of the time: so many steps")
    seeds = parser.add_mutually_exclusive_group()
    seeds.add_argument("--seed", type=int, default=1)
    seeds.add_argument("--seeds", type=int, metavar="N", help="that many runs, of the seeds 1 to N (2 or more)")
    parser.add_argument(
        "changes", nargs="*", metavar="KEY=VALUE", help="of train, by dotted keys, or of the variant's block"
    )
    arguments = parser.parse_args()
    if not arguments.corpus.exists():
        raise InputError(f"{arguments.corpus}: no such file or folder")
    if arguments.seeds is not None:
        if arguments.seeds < 2:
            raise InputError(f"--seeds {arguments.seeds}: a spread needs two or more")
        return several(arguments)

    tune_malloc()
    torch.manual_seed(arguments.seed)
    kind = "words" if arguments.words else "characters"
    if arguments.words:
        text = words(arguments.corpus, arguments.words, arguments.tune)
    else:
        text = characters(arguments.corpus, arguments.tune)
    config, block = settings(kind, arguments.budget, arguments.changes)
    model = build("lstm", block, text.vocab_size)
    seed = config.seed if config.data.random_offset else None
    stream = Stream(text.training, config.data.batch_size, config.data.sequence_length, seed=seed)
    kept: list[tuple[float, int, dict[str, torch.Tensor]]] = []
    steps = 0

    def elapsed() -> float:
        return time.time() - STARTED

    def clock() -> float:
        return steps / arguments.steps if arguments.steps else elapsed() / arguments.budget

    def on_step(step: int, tokens: int, loss: float) -> None:
        nonlocal steps
        steps = step

    def keep(model: LanguageModel) -> float:
        now = elapsed()
        kept.append((now, steps, {name: value.clone() for name, value in model.state_dict().items()}))
        sys.stderr.write(f"{now:7.1f} s: {steps} steps\n")
        return -now  # the last weights are kept, not the best: what is scored chooses nothing

    result = train(model, stream, text.special, config, block, keep, on_step, clock=clock)
    points = []
    for now, step, weights in kept:
        model.load_state_dict(weights)
        points.append({"seconds": now, "steps": step, **scores(model, text, bool(arguments.words))})
        line = ", ".join(f"{name} {value:.4f}" for name, value in points[-1].items() if name.startswith("loss"))
        sys.stderr.write(f"{now:7.1f} s: {line}\n")
    tokens = result.curve[-1].tokens
    operations = 6 * count_parameters(model) * tokens / result.training_seconds
    figures = {
        **points[-1],
        "budget": arguments.budget,
        "parameters": count_parameters(model),
        "epochs": tokens / stream.tokens,
        "operations": operations_a_step(config, block, text.vocab_size, stream) * steps,
        "tokens_per_second": tokens / result.training_seconds,
        "matmul_fraction": operations / matmul_rate(),
        "precision": result.precision,
        "threads": torch.get_num_threads(),
    }
    if arguments.words:
        figures["perplexity"] = float(np.exp(points[-1]["loss_streamed"]))
    if arguments.target:
        below = [point["seconds"] for point in points if np.exp(point["loss_streamed"]) <= arguments.target]
        figures["seconds_to_target"] = below[0] if below else None
    write_figures(arguments.json, {**figures, "points": points})
    print(json.dumps(figures))


if __name__ == "__main__":
    exit_cleanly(main)
