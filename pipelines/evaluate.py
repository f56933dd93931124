"""Stage evaluate@<variant>: score every token of the validation and test splits once.

Inputs:  data/models/<variant>/, data/tokens/, section `evaluate` of params.yaml
Outputs: data/metrics/<variant>.json
Command: python pipelines/evaluate.py <variant>
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from tqdm import tqdm

from recurlm import config, model
from recurlm.errors import InputError, exit_cleanly
from recurlm.evaluation.metrics import describe
from recurlm.evaluation.perplexity import score
from recurlm.storage import write_json
from recurlm.tokens.files import open_tokens

TOKENS = Path("data/tokens")
SPLITS = ("validation", "test")


def main() -> None:
    if len(sys.argv) != 2:
        raise InputError("which variant? python pipelines/evaluate.py VARIANT")
    variant = sys.argv[1]
    params = config.load()
    params.variant(variant)
    trained = model.load(Path("data/models") / variant).to(model.best_device("auto"))
    splits = {split: open_tokens(TOKENS, split) for split in SPLITS}
    if trained.vocab_size != splits["test"].manifest["vocab_size"]:
        raise InputError(f"data/models/{variant}: trained with another vocabulary than data/tokens: train it again")
    metrics: dict[str, Any] = {
        "variant": variant,
        "protocol": "streamed" if trained.causal else "cloze",
        "parameters": model.count_parameters(trained),
    }
    settings = params.evaluate.model_dump()
    # A bar that moves on a terminal, and a line now and then elsewhere.
    every = 0.1 if sys.stderr.isatty() else 10
    for name, split in splits.items():
        with tqdm(total=split.counts["tokens"], desc=name, unit="token", unit_scale=True, mininterval=every) as bar:
            found = score(trained, split.ids, split.starts, **settings, progress=bar.update)
        metrics[name] = describe(found, split.counts, trained.causal)
    write_json(Path("data/metrics") / f"{variant}.json", metrics)


if __name__ == "__main__":
    exit_cleanly(main)
