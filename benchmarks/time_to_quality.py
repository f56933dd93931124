"""How good a recurrent model is after so many seconds, counted from the start of the process.

    python benchmarks/time_to_quality.py --corpus input.txt --budget 60      # seconds; also 600 and 3600
    python benchmarks/time_to_quality.py --corpus input.txt --budget 60 --seeds 3      # one run after the other
    python benchmarks/time_to_quality.py --corpus input.txt --budget 600 --models 2    # a mixture of two
    python benchmarks/time_to_quality.py --corpus input.txt --budget 60 --seeds 3 --runs runs   # goes on; see below
    python benchmarks/time_to_quality.py --corpus input.txt --budget 60 --tune
    python benchmarks/time_to_quality.py --corpus data/corpus --words 10000 --budget 75 --target 61.1

A text file is read character by character: the first 90 % of it trains, the rest is scored, as nanoGPT does. With
`--tune` that rest is not touched: the last 10 % of the first part are scored in its place, and settings are chosen
there. A folder of the stage `fetch` is read word by word, its validation split is scored; with `--tune`, the last of
its documents to train on.

Two protocols: `streamed` reads all in one, the state carried on; `cold_256` is the mean over windows of 256 tokens,
each from a zero state, as a model with a context of 256 sees them. On its way the run only keeps copies of its weights;
they are scored once it is over, so that a point of the curve costs no time within the budget.

A mixture predicts with the mean of its models' probabilities. Each model has a seed and a thread of its own, as many
train side by side as torch has threads, and they share the seconds; what they share them for is not tuned.

The last line of output is one line of JSON; `--json FILE` keeps it with all points. Beside seconds it has what does not
hang on the machine: steps, epochs, and the operations of the products. Of several seeds it has the mean, the standard
deviation and each value, beside the figures of the first. With `--runs FOLDER` a seed whose JSON is there is not run
again, so that seeds may be run apart: `--seed 2 --json FOLDER/2.json` on another core or machine.

Settings are those of params.yaml with what SETTINGS below replaces, and KEY=VALUE on the command line after that:
`data.batch_size=64 hidden_size=256`.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

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
from safetensors.torch import load_file, save_file  # noqa: E402
from texts import Text, characters, words  # noqa: E402
from torch.nn import functional as F  # noqa: E402

from recurlm.config import Evaluate, ModelConfig, TrainConfig  # noqa: E402
from recurlm.diagnostics.likelihoods import split_nll  # noqa: E402
from recurlm.errors import InputError, exit_cleanly  # noqa: E402
from recurlm.model import LanguageModel, build, count_parameters  # noqa: E402
from recurlm.storage import read_json  # noqa: E402
from recurlm.training.batches import Stream  # noqa: E402
from recurlm.training.estimate import work_of  # noqa: E402
from recurlm.training.loop import train  # noqa: E402
from recurlm.training.machine import tune_malloc  # noqa: E402

WINDOW = 256

# The settings of the largest budget that is not above the one asked for. Those of a minute, and of words, were chosen
# by trials with --tune, those of ten minutes by three such trials; larger ones are guesses from there. Windows are
# scored from a zero state, so a quarter of the states are reset at each step. Keys are those of `train` and of a
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


def cold(model: LanguageModel, ids: np.ndarray) -> np.ndarray:
    """The nats of every token of all whole windows, each read from a zero state."""
    count = (len(ids) - 2) // WINDOW
    tokens = torch.from_numpy(ids[1 : 2 + count * WINDOW].astype(np.int64))  # <bos> is no part of a window
    inputs, targets = tokens[:-1].view(count, WINDOW), tokens[1:].view(count, WINDOW)
    nats, training = [], model.training
    model.eval()
    with torch.no_grad():
        for rows, expected in zip(inputs.split(64), targets.split(64), strict=True):
            logits, _ = model(rows, model.initial_state(len(rows)))
            nats.append(F.cross_entropy(logits.flatten(0, 1), expected.flatten(), reduction="none"))
    model.train(training)
    return torch.cat(nats).numpy().astype(np.float64)


def streamed(model: LanguageModel, text: Text) -> np.ndarray:
    """The nats of every token of text, the state carried on."""
    windows = Evaluate(batch_size=64, window_tokens=4096, context_tokens=512)
    scored = split_nll(model, text.scored, text.starts, windows)
    return scored.nats[scored.text].astype(np.float64)


def nats_of_tokens(model: LanguageModel, text: Text, words: bool) -> dict[str, np.ndarray]:
    """By each protocol, the nats of every token that it scores."""
    nats = {"loss_streamed": streamed(model, text)}
    return nats if words else {**nats, f"loss_cold_{WINDOW}": cold(model, text.scored)}


def scores(model: LanguageModel, text: Text, words: bool) -> dict[str, float]:
    return {name: float(nats.mean()) for name, nats in nats_of_tokens(model, text, words).items()}


def mixed(nats: list[np.ndarray]) -> float:
    """The mean loss of the mixture: of the mean of the models' probabilities of each token."""
    return float(np.mean(np.log(len(nats)) - np.logaddexp.reduce([-each for each in nats])))


def matmul_rate() -> float:
    """Operations a second of a product of matrices on this machine."""
    a, b = square_matrices()
    return 2 * len(a) ** 3 / min(seconds(lambda: a @ b) for _ in range(5))


def settings(kind: str, budget: float, changes: list[str]) -> tuple[TrainConfig, ModelConfig]:
    """What a run of a budget is trained with, and what the command line changes in it."""
    evaluations = {"evaluation.num_evals": 6 if budget < 300 else 12}
    return configure(PARAMS.variant("lstm"), evaluations | tuned(kind, budget) | parse_changes(changes))


def tuned(kind: str, budget: float) -> dict[str, float]:
    table = SETTINGS[kind]
    return table[max(least for least in table if least <= budget)]


def read(arguments: argparse.Namespace) -> Text:
    if arguments.words:
        return words(arguments.corpus, arguments.words, arguments.tune)
    return characters(arguments.corpus, arguments.tune)


def operations_a_step(config: TrainConfig, block: ModelConfig, vocab_size: int, stream: Stream) -> float:
    """Multiplications and additions of a step's products, the optimizer's among them."""
    work = work_of("lstm", block, config, vocab_size, stream, 0)
    assert work is not None
    return work.operations / work.steps


def program(arguments: argparse.Namespace, *names: str, **replaced: Any) -> list[str]:
    """The command line of a run in a process of its own, with options of this one's and others in their place."""
    options = {name: getattr(arguments, name) for name in ("corpus", "words", "steps", *names)} | replaced
    given = [part for name, value in options.items() if value is not None for part in (f"--{name}", str(value))]
    return [sys.executable, __file__, *given, *(["--tune"] if arguments.tune else [])]


def several(arguments: argparse.Namespace) -> None:
    """A run a seed, each in a process of its own, whose clock begins with it; one that `--runs` has is not run again.

    Raises:
        InputError: a run that `--runs` has is of another budget, or of another number of models.
    """
    runs: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.runs or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for seed in range(1, arguments.seeds + 1):
            file = folder / f"{seed}.json"
            if not file.exists():
                run = program(arguments, "budget", "target", "models", seed=seed, json=file)
                done = subprocess.run([*run, *arguments.changes], stdout=subprocess.DEVNULL)
                if done.returncode:
                    sys.exit(done.returncode)
            runs.append(read_json(file))
            for name in ("budget", "models"):
                if runs[-1].get(name) != (asked := getattr(arguments, name)):
                    raise InputError(f"{file}: {name} is {runs[-1].get(name)}, and --{name} is {asked}")
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


def mixture(arguments: argparse.Namespace) -> None:
    """Train the models of a mixture, each by one thread of a process of its own, and score the mixture."""
    kind = "words" if arguments.words else "characters"
    lanes = min(arguments.models, torch.get_num_threads())
    turns = math.ceil(arguments.models / lanes)
    chosen = [f"{key}={value}" for key, value in tuned(kind, arguments.budget / turns).items()] + arguments.changes
    first = (arguments.seed - 1) * arguments.models + 1
    seeds = list(range(first, first + arguments.models))
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(turns):
            begun, those = elapsed(), seeds[turn * lanes : (turn + 1) * lanes]
            if begun >= arguments.budget:
                raise InputError(f"--budget {arguments.budget:g}: over before the models of a mixture begin")
            train_side_by_side(arguments, those, (arguments.budget - begun) / (turns - turn), chosen, Path(folder))
        runs = [read_json(Path(folder) / f"{seed}.json") for seed in seeds]
        weights = [load_file(Path(folder) / f"{seed}.safetensors") for seed in seeds]
    text = read(arguments)
    nats: dict[str, list[np.ndarray]] = {}
    for each in weights:
        model = build("lstm", settings(kind, arguments.budget, chosen)[1], text.vocab_size)
        model.load_state_dict(each)
        for name, of_tokens in nats_of_tokens(model, text, bool(arguments.words)).items():
            nats.setdefault(name, []).append(of_tokens)
    figures = {
        "seconds": begun + max(run["seconds"] for run in runs[-len(those) :]),
        **{name: sum(run[name] for run in runs) for name in ("steps", "epochs", "operations", "parameters")},
        **{name: mixed(of_models) for name, of_models in nats.items()},
        "budget": arguments.budget,
        "models": arguments.models,
        "side_by_side": lanes,
        "each": {name: [float(of_tokens.mean()) for of_tokens in of_models] for name, of_models in nats.items()},
        "precision": runs[0]["precision"],
        "threads": lanes,
    }
    if arguments.words:
        figures["perplexity"] = float(np.exp(figures["loss_streamed"]))
    write_figures(arguments.json, figures)
    print(json.dumps(figures))


def train_side_by_side(
    arguments: argparse.Namespace, seeds: list[int], budget: float, chosen: list[str], folder: Path
) -> None:
    """Train a model a seed; its weights and figures come into `folder`."""
    alone = {**os.environ, "OMP_NUM_THREADS": "1"}
    processes = []
    for seed in seeds:
        run = program(
            arguments, budget=budget, seed=seed, json=folder / f"{seed}.json", weights=folder / f"{seed}.safetensors"
        )
        processes.append(subprocess.Popen([*run, *chosen], stdout=subprocess.DEVNULL, env=alone))
    if failed := [code for code in [process.wait() for process in processes] if code]:
        sys.exit(failed[0])


def elapsed() -> float:
    """Seconds since this process began."""
    return time.time() - STARTED


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
        "--runs", type=Path, metavar="FOLDER", help="of --seeds: where seed N's JSON is kept as N.json, or is already"
    )
    parser.add_argument("--models", type=int, metavar="N", help="a mixture of that many (2 or more)")
    parser.add_argument("--weights", type=Path, metavar="FILE", help="write the last weights, and score nothing")
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
    if arguments.runs:
        raise InputError(f"--runs {arguments.runs}: it keeps the runs of --seeds")
    if arguments.models is not None:
        if arguments.models < 2:
            raise InputError(f"--models {arguments.models}: a mixture has two or more")
        return mixture(arguments)
    return single(arguments)


def single(arguments: argparse.Namespace) -> None:
    """Train one model until its time is over, and score the weights that it had on the way."""
    tune_malloc()
    torch.manual_seed(arguments.seed)
    kind = "words" if arguments.words else "characters"
    text = read(arguments)
    config, block = settings(kind, arguments.budget, arguments.changes)
    model = build("lstm", block, text.vocab_size)
    seed = config.seed if config.data.random_offset else None
    stream = Stream(text.training, config.data.batch_size, config.data.sequence_length, seed=seed)
    kept: list[tuple[float, int, dict[str, torch.Tensor]]] = []
    steps = 0

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
    points: list[dict[str, float]] = []
    if arguments.weights:
        save_file(kept[-1][2], arguments.weights)
        points, kept = [{"seconds": kept[-1][0], "steps": steps}], []
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
