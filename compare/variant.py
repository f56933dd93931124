"""Stages tune@, train@ and score@<variant> of the comparison.

Inputs:  data/compare/<name>/plan/<variant>.json, the splits train and validation; of `score` alone, the split test
Outputs: tune   data/compare/<name>/tuned/<variant>.json; trials/<variant>.db, which a killed search goes on from
         train  data/compare/<name>/models/<variant>/<seed>/
         score  data/compare/<name>/scores/<variant>.json
Command: python compare/variant.py tune|train|score <variant>
"""

from __future__ import annotations

import sys

from recurlm.compare import settings
from recurlm.errors import InputError, exit_cleanly
from recurlm.stage import make_deterministic, stop_on_signals
from recurlm.training.loop import StoppedError

INTERRUPTED = 130  # as a shell reports a program that SIGINT ended


def main() -> None:
    if len(sys.argv) != 3 or sys.argv[1] not in ("tune", "train", "score"):
        raise InputError(f"which stage and variant? python {sys.argv[0]} tune|train|score VARIANT")
    stage, compare = sys.argv[1], settings.load()
    plan = settings.read_plan(compare, sys.argv[2])
    make_deterministic(plan.train.machine.threads)
    try:
        if stage == "tune":
            from recurlm.compare.tune import tune

            tune(compare, plan, stop_on_signals())
        else:
            from recurlm.compare.runs import score_seeds, train_seeds

            train_seeds(compare, plan, stop_on_signals()) if stage == "train" else score_seeds(compare, plan)
    except StoppedError as stopped:
        sys.stderr.write(f"recurlm: {stopped}; run it again to go on\n")
        sys.exit(INTERRUPTED)


if __name__ == "__main__":
    exit_cleanly(main)
