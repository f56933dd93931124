"""What time_to_quality.py --words is compared with: the usual word-level model, its usual loop, on the same machine.

Model and settings are those of pytorch/examples' word_language_model with --tied: two layers of nn.LSTM, 200 units, a
dropout of 0.2, plain SGD at a rate of 20 on the summed-up gradient of 35 tokens in 20 rows, clipped to 0.25, the rate
divided by 4 after an epoch that brought nothing; all in fp32.

    python benchmarks/plain_words.py --corpus data/corpus --words 10000 --epochs 3

Tokens, split and score are those of time_to_quality.py, and so is the clock: it starts with the process, and stands
while weights that were kept on the way are scored. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from common import add_json_option, write_figures
from texts import Text, words
from time_to_quality import STARTED
from torch import Tensor, nn
from torch.nn import functional as F

from recurlm.errors import exit_cleanly

UNITS, LAYERS, DROPOUT = 200, 2, 0.2
ROWS, TIME = 20, 35
RATE, CLIP = 20.0, 0.25
POINTS = 4  # of an epoch, at which weights are kept


class Model(nn.Module):
    """Embedding, LSTM and a decoder that shares the embedding's weights."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab_size, UNITS)
        self.lstm = nn.LSTM(UNITS, UNITS, LAYERS, dropout=DROPOUT)
        self.drop = nn.Dropout(DROPOUT)
        self.decoder = nn.Linear(UNITS, vocab_size)
        self.decoder.weight = self.embedding.weight
        nn.init.uniform_(self.embedding.weight, -0.1, 0.1)
        nn.init.zeros_(self.decoder.bias)

    def forward(self, tokens: Tensor, state: tuple[Tensor, Tensor] | None) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        y, state = self.lstm(self.drop(self.embedding(tokens)), state)
        return self.decoder(self.drop(y)), state


def score(model: Model, text: Text) -> float:
    """Nats per token: each document read in one, from a zero state; its first token begins it and is not scored."""
    model.eval()
    total, count = 0.0, 0
    with torch.no_grad():
        for first, end in zip(text.starts[:-1], text.starts[1:], strict=True):
            state = None
            for at in range(first, end - 1, 1024):
                tokens = torch.from_numpy(text.scored[at : min(at + 1025, end)].astype(np.int64))
                logits, state = model(tokens[:-1, None], state)
                total += F.cross_entropy(logits[:, 0], tokens[1:], reduction="sum").item()
                count += len(tokens) - 1
    model.train()
    return total / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, required=True)
    parser.add_argument("--words", type=int, metavar="SIZE", default=10000, help="the vocabulary's size")
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--target", type=float, metavar="PERPLEXITY", help="say when it first came below it")
    parser.add_argument("--seed", type=int, default=1)
    add_json_option(parser)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    text = words(arguments.corpus, arguments.words, tune=False)
    model = Model(text.vocab_size)
    length = len(text.training) // ROWS
    columns = torch.from_numpy(text.training[: length * ROWS].astype(np.int64)).view(ROWS, length).T.contiguous()
    windows = range(0, length - 1, TIME)
    kept = np.linspace(0, len(windows), POINTS + 1).round()[1:]
    rate, best, stood, points = RATE, float("inf"), 0.0, []
    for epoch in range(arguments.epochs):
        state = None
        for done, at in enumerate(windows, start=1):
            tokens = columns[at : at + TIME + 1]
            if state is not None:
                state = (state[0].detach(), state[1].detach())
            model.zero_grad()
            logits, state = model(tokens[:-1], state)
            F.cross_entropy(logits.flatten(0, 1), tokens[1:].flatten()).backward()
            nn.utils.clip_grad_norm_(model.parameters(), CLIP)
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(parameter.grad, alpha=-rate)
            if done in kept:
                now = time.time()
                nats = score(model, text)
                points.append({"seconds": now - STARTED - stood, "epochs": epoch + done / len(windows), "nats": nats})
                stood += time.time() - now
                sys.stderr.write(f"{points[-1]['seconds']:7.1f} s: perplexity {np.exp(nats):.1f}\n")
        if points[-1]["nats"] > best:
            rate /= 4
        best = min(best, points[-1]["nats"])
    figures = {
        **{name: points[-1][name] for name in ("seconds", "epochs")},
        "perplexity": float(np.exp(points[-1]["nats"])),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "threads": torch.get_num_threads(),
        "points": points,
    }
    if arguments.target:
        below = [point["seconds"] for point in points if np.exp(point["nats"]) <= arguments.target]
        figures["seconds_to_target"] = below[0] if below else None
    write_figures(arguments.json, figures)
    print(json.dumps(figures))


if __name__ == "__main__":
    exit_cleanly(main)
