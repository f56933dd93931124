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
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from recurlm import config
from recurlm.config import ModelConfig, Params, Precision
from recurlm.errors import exit_cleanly
from recurlm.stage import DATA
from recurlm.storage import write_json
from recurlm.strict_yaml import load_yaml
from recurlm.verify.faults.plant import Outcome, Subject, from_data, plant_all, tiny_subjects


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recurlm.verify.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("variants", nargs="*", metavar="variant", help="of params.yaml; left out, all")
    parser.add_argument("--precision", action="append", choices=("fp32", "int8", "int4"), help="may be given again")
    parser.add_argument("--tiny", action="store_true", help="small models with random weights in place of data/")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name contains it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the last line, and the same of each bundle")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    params = read_params(arguments.variants, arguments.tiny)
    outcome, precisions = Outcome(), arguments.precision or list(params.export.precisions)
    bundles: dict[str, dict[str, Any]] = {variant: {} for variant in params.variants}
    with tempfile.TemporaryDirectory() as parent:
        for variant in bundles:
            for subject in subjects(Path(parent), variant, precisions, params, arguments.tiny):
                plant_all(subject, outcome, lambda name: arguments.only in name, lambda line: print(line, flush=True))
                bundles[variant][subject.precision] = outcome.summary(f"{variant} {subject.precision}, ")
    for name in outcome.absent:
        print(f"{name}: nothing of the kind here")
    if arguments.json:
        command = shlex.join(["python", "-m", "recurlm.verify.faults", *sys.argv[1:]])
        write_json(arguments.json, {"command": command, **outcome.summary(), "bundles": bundles})
    print(json.dumps(outcome.summary(), ensure_ascii=False))
    if outcome.missed:
        sys.exit(1)


def read_params(variants: list[str], small: bool) -> Params:
    """params.yaml, for small models with the blocks of zoo.yaml.

    Raises:
        InputError: it has no such variant.
    """
    params, zoo = config.load(Path("params.yaml")), Path("zoo.yaml")
    names = variants or list(params.variants)
    if small and zoo.is_file():
        blocks = load_yaml(zoo)["variants"]
        more = {name: ModelConfig(**(params.model | block)) for name, block in blocks.items()}
        params = params.model_copy(update={"variants": more | params.variants})
    return params.model_copy(update={"variants": {name: params.variant(name) for name in names}})


def subjects(root: Path, variant: str, precisions: list[Precision], params: Params, tiny: bool) -> Iterable[Subject]:
    """The bundles of a variant: of the pipeline's folder, or small ones."""
    if tiny:
        return tiny_subjects(variant, precisions, params, root)
    return (from_data(DATA, variant, precision, params, root / variant / precision) for precision in precisions)


if __name__ == "__main__":
    exit_cleanly(main)
