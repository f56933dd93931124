"""Options that subcommands share: the bundle and the sampling settings; usage errors in one line."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeAlias

from recurlm.errors import InputError, nearest

BUNDLES, PARAMS = Path("data/onnx"), Path("params.yaml")
Command = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """An argument parser that reports wrong usage as an InputError: one line, status 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def command(commands: Commands, name: str, run: Command, summary: str, example: str) -> argparse.ArgumentParser:
    """Add a subcommand, without options yet."""
    sub = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sub.set_defaults(command=run)
    return sub


def bundle_options(sub: argparse.ArgumentParser, several: bool = False) -> None:
    """Add options for the bundle, or with `several` for bundles, and for threads."""
    where = sub.add_mutually_exclusive_group(required=True)
    where.add_argument("--variant", help=f"use the bundle {BUNDLES}/VARIANT/PRECISION of the current folder")
    where.add_argument("--bundle", metavar="PATH", help="use the bundle in this folder")
    if several:
        where.add_argument(
            "--model", action="append", metavar="NAME=PATH", help="use the bundle in this folder by this name (repeat)"
        )
        where.add_argument("--all", action="store_true", help=f"use every bundle in {BUNDLES}, as VARIANT-PRECISION")
    sub.add_argument("--precision", default="fp32", help="fp32, int8 or int4, with --variant (default: fp32)")
    sub.add_argument("--threads", type=int, help="threads to compute with (default: 1)")


def chosen_bundle(arguments: argparse.Namespace) -> Path:
    """The bundle's folder.

    Raises:
        InputError: there is no bundle of this variant below the current folder.
    """
    from recurlm.runtime.bundle import PRECISIONS, bundles_in

    if arguments.bundle is not None:
        return Path(str(arguments.bundle))
    variant, precision = str(arguments.variant), str(arguments.precision)
    known = sorted(folder.name for folder in BUNDLES.glob("*") if bundles_in(folder))
    if variant not in known and variant in _variants():
        raise InputError(f"{BUNDLES}: no bundle of '{variant}' yet: dvc repro verify@{variant} makes it")
    if not known:
        raise InputError(f"no bundles in {BUNDLES}: run the pipeline first, or name a bundle's folder with --bundle")
    if variant not in known:
        raise InputError(f"{BUNDLES}: no bundle of a variant '{variant}': {nearest(variant, {*known, *_variants()})}")
    folder = BUNDLES / variant
    precisions = bundles_in(folder)
    if precision not in precisions:
        hint = nearest(precision, precisions)
        if precision in PRECISIONS:
            hint = f"name it in export.precisions of params.yaml, and dvc repro verify@{variant} makes it"
        raise InputError(f"{folder}: no bundle in '{precision}': {hint}")
    return folder / precision


def _variants() -> list[str]:
    """The variants of a project in the current folder, without the packages that read its params.yaml."""
    try:
        text = PARAMS.read_text(encoding="utf-8")
    except (OSError, ValueError):
        return []
    block = re.search(r"^variants:[^\n]*\n((?:[ \t]+.*\n|#.*\n|\n)*)", text + "\n", re.MULTILINE)
    return re.findall(r"^  (\w+):", block[1], re.MULTILINE) if block else []


def sampling_options(sub: argparse.ArgumentParser, temperature: float, top_k: int, top_p: float) -> None:
    """Add options for sampling, with these defaults."""
    sub.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        metavar="T",
        help=f"0 is greedy, above 1 flattens the distribution (default: {temperature})",
    )
    sub.add_argument(
        "--top-k",
        type=int,
        default=top_k,
        metavar="K",
        help=f"sample from the K likeliest tokens; 0: from all (default: {top_k})",
    )
    sub.add_argument(
        "--top-p",
        type=float,
        default=top_p,
        metavar="P",
        help=f"sample from the likeliest tokens whose probabilities add up to P (default: {top_p})",
    )
    sub.add_argument("--seed", type=int, help="a number of 0 or more (default: another text each time)")
