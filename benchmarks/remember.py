"""A task that needs memory: remember one symbol while k tokens of noise pass, then name it.

    symbol   noise × k    ?
      3      b f a … c    ?   →   3

Each variant's cell, in one layer and at about the same number of parameters, learns with delays k from 1 to
`--train-delay`, and is tested at delays within and beyond. All variants get the same steps, the same learning rates to
choose from and the same seeds. The rate with the lowest mean loss on validation sequences is taken; the accuracy is
measured on sequences that neither training nor that choice has seen. Same seeds on one machine, same figures.

    python benchmarks/remember.py
    python benchmarks/remember.py --json benchmarks/results/remember.json --picture docs/plots/remember.png
    python benchmarks/remember.py --variants rnn --steps 4000 --delays 5 10 20
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from typing import Any

import altair
import pandas
import torch
from common import PARAMS, add_json_option, seconds, write_figures
from torch import Tensor
from torch.nn import functional as F

from recurlm.config import ModelConfig, override
from recurlm.errors import InputError, exit_cleanly
from recurlm.model import LanguageModel, build, count_parameters
from recurlm.report.drawing import Chart, Palette, base, finish, png
from recurlm.stage import make_deterministic

SYMBOLS, NOISE = 8, 8
QUESTION = SYMBOLS + NOISE
VOCABULARY = QUESTION + 1
EMBEDDING = 32
TITLE = "Remember a symbol: right answers after k tokens of noise"
RATES = (0.001, 0.003, 0.01)
TEST_ROWS, VALIDATION_BATCHES = 512, 8
VALIDATION_SEED, TEST_SEED = 1_000_001, 1_000_002  # of sequences; training uses the runs' own seeds


def sequences(rows: int, delay: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Tokens [rows, delay + 2] and the symbol that each row begins with."""
    symbol = torch.randint(SYMBOLS, (rows, 1), generator=random)
    noise = torch.randint(SYMBOLS, SYMBOLS + NOISE, (rows, delay), generator=random)
    question = torch.full((rows, 1), QUESTION)
    return torch.cat([symbol, noise, question], dim=1), symbol[:, 0]


def answers(model: LanguageModel, tokens: Tensor) -> Tensor:
    """Logits at the question, [rows, vocabulary]."""
    features, _ = model.features(tokens, model.initial_state(len(tokens)))
    return model.decoder(features[:, -1])  # type: ignore[no-any-return]


def random_delay(longest: int, random: torch.Generator) -> int:
    return int(torch.randint(1, longest + 1, (1,), generator=random))


def train(name: str, config: ModelConfig, lr: float, seed: int, steps: int, rows: int, longest: int) -> LanguageModel:
    """A model after `steps` of Adam, at a rate that falls to zero."""
    torch.manual_seed(seed)
    random = torch.Generator().manual_seed(seed)
    model = build(name, config, VOCABULARY)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=steps)
    for _ in range(steps):
        tokens, symbol = sequences(rows, random_delay(longest, random), random)
        optimizer.zero_grad()
        F.cross_entropy(answers(model, tokens), symbol).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
    return model.eval().requires_grad_(False)


def validation_loss(model: LanguageModel, longest: int) -> float:
    """The mean loss at the delays of training, in nats."""
    random = torch.Generator().manual_seed(VALIDATION_SEED)
    losses = []
    for _ in range(VALIDATION_BATCHES):
        tokens, symbol = sequences(TEST_ROWS // VALIDATION_BATCHES, random_delay(longest, random), random)
        losses.append(float(F.cross_entropy(answers(model, tokens), symbol)))
    return statistics.fmean(losses)


def accuracy(model: LanguageModel, delay: int) -> float:
    tokens, symbol = sequences(TEST_ROWS, delay, torch.Generator().manual_seed(TEST_SEED + delay))
    return float((answers(model, tokens).argmax(dim=1) == symbol).float().mean())


def sized(name: str, parameters: int) -> ModelConfig:
    """A variant's cell in one layer, with the largest hidden size that keeps within so many parameters."""
    config, smaller = _one_layer(name, 1), None
    while count_parameters(build(name, config, VOCABULARY)) <= parameters:
        config, smaller = _one_layer(name, config.hidden_size + 1), config
    if smaller is None:
        raise InputError(f"--parameters {parameters}: too few for a {name}")
    return smaller


def _one_layer(name: str, hidden_size: int) -> ModelConfig:
    shape = {"layers": 1, "hidden_size": hidden_size, "embedding_size": EMBEDDING, "tie_weights": False}
    return override(PARAMS.variant(name), shape)


def measure(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """What one variant remembers, with the rate that validation sequences chose."""
    config, losses, models = sized(name, arguments.parameters), {}, {}
    for lr in RATES:
        models[lr] = [
            train(name, config, lr, seed, arguments.steps, arguments.batch_size, arguments.train_delay)
            for seed in range(1, arguments.seeds + 1)
        ]
        losses[lr] = statistics.fmean(validation_loss(model, arguments.train_delay) for model in models[lr])
    best = min(losses, key=lambda lr: losses[lr])
    return {
        "hidden_size": config.hidden_size,
        "parameters": count_parameters(models[best][0]),
        "learning_rate": best,
        "validation_nats": {f"{lr:g}": loss for lr, loss in losses.items()},
        "accuracy": [
            {"delay": delay, "by_seed": [accuracy(model, delay) for model in models[best]]}
            for delay in arguments.delays
        ],
    }


def chart(figures: dict[str, Any]) -> Chart:
    """Right answers against the delay: a thin line a seed, and a thick one through their means."""
    by_seed = [
        {"variant": name, "delay": row["delay"], "run": f"{name} {seed}", "right": right}
        for name, variant in figures["variants"].items()
        for row in variant["accuracy"]
        for seed, right in enumerate(row["by_seed"])
    ]
    means = [
        {"variant": name, "delay": row["delay"], "right": statistics.fmean(row["by_seed"])}
        for name, variant in figures["variants"].items()
        for row in variant["accuracy"]
    ]
    delays = sorted({row["delay"] for row in means})
    x = altair.X(
        "delay:Q",
        title="tokens of noise between the symbol and the question",
        scale=altair.Scale(type="log", nice=False, domain=[delays[0], max(delays[-1], figures["train_delay"])]),
        axis=altair.Axis(values=delays),
    )
    y = altair.Y("right:Q", title="right answers", axis=altair.Axis(format="%"), scale=altair.Scale(domain=[0, 1]))
    palette, seeds, mean = Palette(tuple(PARAMS.variants)), pandas.DataFrame(by_seed), pandas.DataFrame(means)
    runs, lines = (base(rows).encode(x, y, palette.colour(mean)) for rows in (seeds, mean))
    chance, trained = ({"right": 1 / SYMBOLS, "delay": delays[0]}, {"right": 0.03, "delay": figures["train_delay"]})
    layers = (
        _note(chance).mark_rule(strokeDash=[2, 3], opacity=0.6).encode(y="right:Q"),
        _note(chance).mark_text(text="chance", align="left", dx=4, dy=9).encode(x=x, y=y),
        _note(trained).mark_rule(strokeDash=[6, 3], opacity=0.6).encode(x=x),
        _note(trained).mark_text(text="longest delay of training", align="right", dx=-5).encode(x=x, y=y),
        runs.mark_line(opacity=0.35, strokeWidth=1).encode(detail="run:N"),
        lines.mark_line(strokeWidth=2.5),
        lines.mark_point(filled=True, size=60, opacity=1).encode(shape=palette.shape(mean)),
    )
    return Chart("", finish(altair.layer(*layers)), tuple(figures["variants"]))


def _note(row: dict[str, float]) -> altair.Chart:
    return altair.Chart(altair.InlineData(values=[row]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variants", nargs="+", default=["rnn", "gru", "lstm"], help="blocks of params.yaml")
    parser.add_argument("--delays", nargs="+", type=int, default=[1, 2, 5, 10, 20, 30, 50, 100, 200])
    parser.add_argument("--train-delay", type=int, default=30, metavar="K", help="the longest delay of training")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--parameters", type=int, default=9600, help="at most, of each model")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--picture", type=Path, metavar="FILE", help="draw the figures as PNG")
    add_json_option(parser)
    arguments = parser.parse_args()
    make_deterministic(arguments.threads)
    variants: dict[str, Any] = {}
    settings = ("train_delay", "steps", "batch_size", "seeds")
    figures = {"task": {"symbols": SYMBOLS, "noise": NOISE}} | {key: getattr(arguments, key) for key in settings}
    print("| variant | hidden | parameters | rate |", *(f"k = {k} |" for k in arguments.delays))
    print(f"|---|--:|--:|--:|{'--:|' * len(arguments.delays)}")

    def measure_all() -> None:
        for name in arguments.variants:
            row = variants[name] = measure(name, arguments)
            means = (f"{statistics.fmean(at['by_seed']):.0%} |" for at in row["accuracy"])
            head = f"| {name} | {row['hidden_size']} | {row['parameters']:,} | {row['learning_rate']:g} |"
            print(head, *means, flush=True)

    figures |= {"seconds": round(seconds(measure_all)), "variants": variants}
    write_figures(arguments.json, figures)
    if arguments.picture:
        arguments.picture.parent.mkdir(parents=True, exist_ok=True)
        arguments.picture.write_bytes(png(chart(figures), TITLE))


if __name__ == "__main__":
    exit_cleanly(main)
