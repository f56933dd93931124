"""Stage train@<variant>: a fresh model, or that of train.init_from → the weights best on the validation split.

Inputs:  data/tokens/, sections `train`, `model` and `variants.<variant>` of params.yaml
Outputs: data/models/<variant>/ (model.safetensors, model.json, tokenizer.json, curve.csv, log.csv)
         data/timings/train-<variant>.json and .jsonl (measurements of this machine: DVC does not hash them)
         a run in MLflow, while it runs
         data/checkpoints/<variant>.safetensors and .jsonl, while it runs: broken off and run again, it goes on there
Command: python pipelines/train.py <variant>
         torchrun --nnodes 2 --nproc-per-node 4 … pipelines/train.py <variant>, on each of two machines
"""

from __future__ import annotations

import sys

from torch.distributed import is_torchelastic_launched

from recurlm.config import Params
from recurlm.stage import DATA, make_deterministic, run_variant, stop_on_signals
from recurlm.tracking.live import follower
from recurlm.training.distributed import workers_of
from recurlm.training.launch import INTERRUPTED, launch
from recurlm.training.loop import StoppedError
from recurlm.training.run import checkpoint_path, train_variant


def main(name: str, params: Params) -> None:
    machine, checkpoint = params.train.machine, checkpoint_path(name, DATA)
    if machine.processes > 1 and not is_torchelastic_launched():
        sys.exit(launch(sys.argv, machine.processes, checkpoint))
    make_deterministic(machine.threads)
    stop = stop_on_signals()
    with workers_of(params.train) as workers:
        try:
            train_variant(name, params, DATA, stop, workers, follower(params.report.experiment))
        except StoppedError as stopped:
            if workers.first:
                sys.stderr.write(f"recurlm: {stopped}; {checkpoint} is kept: run it again to go on\n")
            sys.exit(INTERRUPTED)


if __name__ == "__main__":
    run_variant(main)
