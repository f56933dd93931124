"""What the exact functions and sums of int8 cost in perplexity: models of `dvc repro`, with them and with true ones.

The arithmetic is that of the int8 bundle, on the validation text, cut into lanes that are read side by side from a zero
state; only the functions and sums between its products differ. Neighbouring roundings fall otherwise, which alone moves
a loss a little up or down: the standard error over lanes says how much of a difference is that.

    python benchmarks/exact_functions.py --json benchmarks/results/exact_functions.json
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from common import PARAMS, ROOT, add_json_option, write_figures
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from recurlm import model
from recurlm.errors import InputError, exit_cleanly
from recurlm.export import exact
from recurlm.tokens.files import open_tokens
from recurlm.verify.quantized import QuantizedArithmetic


def true(function: Callable[[Tensor], Tensor]) -> Callable[[exact.Arithmetic[Tensor], Tensor], Tensor]:
    """A function computed in fp64 and rounded once."""
    return lambda _, x: function(x.double()).float()


TRUE = {name: true(getattr(torch, name)) for name in ("tanh", "sigmoid", "exp", "log", "log1p", "sin", "cos")}


def true_total(_: exact.Arithmetic[Tensor], x: Tensor, axis: int, size: int) -> Tensor:
    """A sum in fp64, rounded once."""
    return x.double().sum(axis, keepdim=True).float()


@torch.no_grad()
def nats(language_model: model.LanguageModel, arithmetic: dict[str, Tensor], windows: Tensor) -> Tensor:
    """The mean loss of each lane of `windows` [lanes, time] in the bundle's arithmetic."""
    total, state = torch.zeros(len(windows), dtype=torch.float64), language_model.initial_state(len(windows))
    for now, then in zip(windows.T[:-1], windows.T[1:], strict=True):
        with QuantizedArithmetic(arithmetic, language_model):
            logits, state = language_model.step(now, state)
        total += cross_entropy(logits.double(), then, reduction="none")
    return total / (windows.shape[1] - 1)


def measure(data: Path, variant: str, lanes: int) -> dict[str, Any]:
    """Losses with both, and the increase of perplexity in percent with its standard error."""
    graphs = data / f"graphs/{variant}/int8/quantized.safetensors"
    if not graphs.is_file():
        raise InputError(f"{graphs} is not there: `dvc repro export` makes it")
    language_model = model.load(data / f"models/{variant}").requires_grad_(False).eval()
    text = np.asarray(open_tokens(data / "tokens", "validation").ids, np.int64)
    windows = torch.from_numpy(text[: len(text) // lanes * lanes].reshape(lanes, -1))
    arithmetic = load_file(graphs)
    found = nats(language_model, arithmetic, windows)
    with patch.multiple(exact, total=true_total, **TRUE):
        expected = nats(language_model, arithmetic, windows)
    difference = found - expected
    return {
        "nats": float(found.mean()),
        "nats_with_the_true_functions": float(expected.mean()),
        "perplexity_increase_percent": 100 * math.expm1(float(difference.mean())),
        "standard_error_percent": 100 * float(difference.std()) / math.sqrt(lanes),
        "tokens": windows.numel() - lanes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    causal = [name for name in PARAMS.variants if not PARAMS.variant(name).bidirectional]
    parser.add_argument("--data", type=Path, default=ROOT / "data", help="where `dvc repro` has left models and graphs")
    parser.add_argument("--variants", nargs="+", default=causal)
    parser.add_argument("--lanes", type=int, default=128)
    add_json_option(parser)
    args = parser.parse_args()
    print("| variant | nats a token | with the true functions | perplexity | standard error |\n|---|--:|--:|--:|--:|")
    figures = {}
    for variant in args.variants:
        row = figures[variant] = measure(args.data, variant, args.lanes)
        print(
            f"| {variant} | {row['nats']:.5f} | {row['nats_with_the_true_functions']:.5f} | "
            f"{row['perplexity_increase_percent']:+.4f} % | {row['standard_error_percent']:.4f} % |",
            flush=True,
        )
    write_figures(args.json, {"variants": figures})


if __name__ == "__main__":
    exit_cleanly(main)
