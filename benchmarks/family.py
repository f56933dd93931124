"""How fast each causal variant of params.yaml and zoo.yaml generates: generator.onnx, one sequence, one thread.

The weights are random: speed does not hang on them. Bundles that the folder lacks are exported first, which takes some
minutes; then all are measured in turns, and a figure is the median over rounds.

    python benchmarks/family.py --bundles .cache/family --json benchmarks/results/zoo_generation.json
"""

from __future__ import annotations

import argparse
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import torch
from common import PARAMS, ROOT, add_json_option, seconds, write_figures
from generation import FROM_SOFTMAX, SPECIAL

from recurlm.config import ModelConfig, Precision
from recurlm.export.bundle import write_graphs
from recurlm.export.graphs import ExportCache
from recurlm.model import build
from recurlm.storage import whole_folder
from recurlm.strict_yaml import load_yaml
from recurlm.verify.sessions import Graphs

PRECISIONS: tuple[Precision, ...] = ("fp32", "int8")
VOCABULARY = PARAMS.tokenize.vocab_size
TOKENS = 100  # generated in a measurement


def variants() -> dict[str, ModelConfig]:
    """Those that generate: no cloze models."""
    zoo = load_yaml(ROOT / "zoo.yaml")["variants"]
    configs = PARAMS.variants | {name: ModelConfig(**(PARAMS.model | block)) for name, block in zoo.items()}
    return {name: block for name, block in configs.items() if not block.bidirectional}


def export(folder: Path, name: str, block: ModelConfig) -> dict[str, tuple[int, ...]]:
    """Graphs of a variant with random weights, in each precision that the folder lacks; and the shapes of its state."""
    torch.manual_seed(1)
    model = build(name, block, VOCABULARY).eval().requires_grad_(False)
    manifest = {"special": SPECIAL, "tokenizer_sha256": "", "kind": "bpe", "corpus": {}}
    text, cache = np.random.default_rng(0).integers(2, VOCABULARY, 20_000), ExportCache()
    for precision in PRECISIONS:
        target = folder / name / precision
        if not target.is_dir():
            target.parent.mkdir(parents=True, exist_ok=True)
            with whole_folder(target) as partial:
                write_graphs(partial, name, model, manifest, PARAMS.export, precision, text, cache)
    return model.recurrence.state_spec


def measure(graphs: dict[tuple[str, str], Graphs], rounds: int) -> dict[tuple[str, str], float]:
    """Microseconds a token, medians over rounds in which each bundle has its turn."""
    prompt, uniform = np.zeros((1, 1), np.int64), np.random.default_rng(0).random((1, TOKENS), np.float32)
    times: dict[tuple[str, str], list[float]] = {bundle: [] for bundle in graphs}
    for number in range(rounds + 1):
        for bundle, loaded in graphs.items():
            spent = seconds(lambda loaded=loaded: loaded.generate(prompt, uniform, FROM_SOFTMAX))  # type: ignore[misc]
            if number:  # the first round loads the graphs
                times[bundle].append(1e6 * spent / TOKENS)
    return {bundle: statistics.median(values) for bundle, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, required=True, metavar="FOLDER", help="where bundles are, or will be")
    parser.add_argument("--variants", nargs="+", default=list(variants()))
    parser.add_argument("--rounds", type=int, default=9)
    add_json_option(parser)
    arguments = parser.parse_args()
    figures: dict[str, dict[str, Any]] = {}
    for name in arguments.variants:
        spec = export(arguments.bundles, name, variants()[name])
        figures[name] = {"state_bytes": 4 * sum(math.prod(shape) for shape in spec.values())}
    graphs = {(name, kind): Graphs(arguments.bundles / name / kind) for name in figures for kind in PRECISIONS}
    for (name, kind), microseconds in measure(graphs, arguments.rounds).items():
        figures[name][f"{kind}_microseconds_per_token"] = microseconds
    print("| variant | state, bytes | fp32, µs a token | int8, µs a token |\n|---|--:|--:|--:|")
    for name, row in figures.items():
        state, fp32, int8 = row.values()
        print(f"| {name} | {state:,} | {fp32:.0f} | {int8:.0f} |")
    write_figures(arguments.json, {"onnxruntime": onnxruntime.__version__, "variants": figures})


if __name__ == "__main__":
    main()
