"""Plant faults in copies of bundles, one at a time, and see whether `verify` catches each.

    python -m recurlm.verify.faults                        all variants and precisions of params.yaml, from data/
    python -m recurlm.verify.faults lstm --precision int8
    python -m recurlm.verify.faults --tiny                 small models with random weights in place of data/
    python -m recurlm.verify.faults --tiny transformer     also of zoo.yaml

Prints a line a fault with the check that caught it. The last line is JSON: how many were planted and caught, and the
names of those that were missed; then the exit status is 1. A caught fault is no equivalent one: the same checks have
passed on the bundle without it, so it has changed what they read.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from recurlm import config
from recurlm.config import ModelConfig, Params, Precision, override
from recurlm.errors import InputError, exit_cleanly, nearest
from recurlm.storage import write_json
from recurlm.strict_yaml import load_yaml
from recurlm.verify.faults.plant import Outcome, Subject, from_data, plant_all
from recurlm.verify.faults.tiny import tiny_subjects


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recurlm.verify.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("variants", nargs="*", metavar="variant", help="of params.yaml; left out, all")
    parser.add_argument("--precision", action="append", choices=("fp32", "int8", "int4"), help="may be given again")
    parser.add_argument("--tiny", action="store_true", help="small models with random weights in place of data/")
    parser.add_argument("--data", type=Path, default=Path("data"), metavar="FOLDER", help="in place of data/")
    parser.add_argument("--num-tokens", type=int, help="in place of verify.num_tokens")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name contains it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the last line, and the same of each bundle")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    params = read_params(arguments.variants, arguments.tiny)
    if arguments.num_tokens:
        params = params.model_copy(update={"verify": override(params.verify, {"num_tokens": arguments.num_tokens})})
    total, precisions = Outcome(), arguments.precision or list(params.export.precisions)
    bundles: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as parent:
        for variant in arguments.variants or params.variants:
            data = None if arguments.tiny else arguments.data
            for subject in subjects(Path(parent), variant, precisions, params, data):
                outcome = Outcome()
                plant_all(subject, outcome, lambda name: arguments.only in name, lambda line: print(line, flush=True))
                bundles.setdefault(variant, {})[subject.precision] = outcome.summary()
                total.add(outcome)
    for name in total.absent:
        print(f"{name}: nothing of the kind here")
    if arguments.json:
        command = shlex.join(["python", "-m", "recurlm.verify.faults", *sys.argv[1:]])
        write_json(arguments.json, {"command": command, **total.summary(), "bundles": bundles})
    print(json.dumps(total.summary(), ensure_ascii=False))
    if total.missed:
        sys.exit(1)


def read_params(variants: list[str], small: bool) -> Params:
    """params.yaml, for small models with the blocks of zoo.yaml.

    Raises:
        InputError: it has no such variant.
    """
    params, zoo = config.load(Path("params.yaml")), Path("zoo.yaml")
    known = dict(params.variants)
    if small and zoo.is_file():
        more = load_yaml(zoo)["variants"]
        known |= {name: ModelConfig(**(params.model | block)) for name, block in more.items() if name not in known}
    for name in variants:
        if name not in known:
            raise InputError(f"no variant '{name}': {nearest(name, known)}")
    return params.model_copy(update={"variants": {name: known[name] for name in variants or params.variants}})


def subjects(
    root: Path, variant: str, precisions: list[Precision], params: Params, data: Path | None
) -> Iterator[Subject]:
    """The bundles of a variant: of the pipeline's folder, or small ones."""
    if data is None:
        yield from tiny_subjects(variant, precisions, params, root)
        return
    for precision in precisions:
        yield from_data(data, variant, precision, params, root / variant / precision)


if __name__ == "__main__":
    exit_cleanly(main)
