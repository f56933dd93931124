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
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from recurlm import config
from recurlm.config import ModelConfig, Params
from recurlm.errors import InputError, exit_cleanly
from recurlm.stage import end_with_parent
from recurlm.storage import write_json
from recurlm.strict_yaml import load_yaml
from recurlm.verify.faults.plant import Outcome, plant_variant


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m recurlm.verify.faults",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("variants", nargs="*", metavar="variant", help="of params.yaml; left out, all")
    parser.add_argument("--precision", action="append", choices=("fp32", "int8", "int4"), help="may be given again")
    parser.add_argument("--tiny", action="store_true", help="small models with random weights in place of data/")
    parser.add_argument("--processes", type=int, default=1, metavar="N", help="a variant each at a time")
    parser.add_argument("--only", default="", metavar="TEXT", help="faults whose name contains it")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the last line, and the same of each bundle")
    arguments = parser.parse_args()
    if arguments.processes < 1:
        raise InputError(f"--processes {arguments.processes}: one or more")
    params = read_params(arguments.variants, arguments.tiny)
    outcome, precisions = Outcome(), arguments.precision or list(params.export.precisions)
    plant = partial(plant_variant, precisions=precisions, params=params, tiny=arguments.tiny, only=arguments.only)
    with in_processes(arguments.processes) as over:
        for one in over(plant, params.variants):
            outcome.add(one)
    for name in outcome.absent:
        print(f"{name}: nothing of the kind here")
    if arguments.json:
        command = shlex.join(["python", "-m", "recurlm.verify.faults", *sys.argv[1:]])
        bundles = {
            variant: {precision: outcome.summary(f"{variant} {precision}, ") for precision in precisions}
            for variant in params.variants
        }
        write_json(arguments.json, {"command": command, **outcome.summary(), "bundles": bundles})
    print(json.dumps(outcome.summary(), ensure_ascii=False))
    if outcome.missed:
        sys.exit(1)


@contextmanager
def in_processes(count: int) -> Iterator[Callable[..., Iterable[Any]]]:
    """`map`, over so many processes."""
    if count == 1:
        yield map
        return
    with ProcessPoolExecutor(count, get_context("spawn"), initializer=end_with_parent) as pool:
        yield pool.map


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


if __name__ == "__main__":
    exit_cleanly(main)
