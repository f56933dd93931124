"""Stage train@<variant>: a fresh model, or that of train.init_from → the weights best on the validation split.

Inputs:  data/tokens/, sections `train`, `model` and `variants.<variant>` of params.yaml
Outputs: data/models/<variant>/ (model.safetensors, model.json, tokenizer.json, curve.csv, log.csv)
         data/timings/train-<variant>.json (a measurement of this machine: DVC does not hash it)
         data/checkpoints/<variant>.safetensors, while it runs: broken off and run again, it goes on from there
Command: python pipelines/train.py <variant>
"""

from __future__ import annotations

import sys

from recurlm.config import Params
from recurlm.stage import DATA, make_deterministic, run_variant, stop_on_signals
from recurlm.training.loop import StoppedError
from recurlm.training.run import checkpoint_path, train_variant

INTERRUPTED = 130  # as a shell reports a program that SIGINT ended


def main(name: str, params: Params) -> None:
    make_deterministic(params.train.machine.threads)
    try:
        train_variant(name, params, DATA, stop_on_signals())
    except StoppedError as stopped:
        sys.stderr.write(f"recurlm: {stopped}; {checkpoint_path(name, DATA)} is kept: run it again to go on\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run_variant(main)
