"""What the subcommands have in common: usage errors in one line, which bundle, how to sample."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, TypeAlias

from recurlm.errors import InputError, nearest

BUNDLES = Path("data/onnx")
Command = Callable[[argparse.Namespace], None]


class Parser(argparse.ArgumentParser):
    """Wrong usage is bad input like any other: one line, status 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


Commands: TypeAlias = "argparse._SubParsersAction[Parser]"


def command(commands: Commands, name: str, run: Command, summary: str, example: str) -> argparse.ArgumentParser:
    """A subcommand without options."""
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
    """Which bundle, or with `several` which bundles, and how many threads."""
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
    from recurlm.runtime.bundle import bundles_in

    if arguments.bundle is not None:
        return Path(str(arguments.bundle))
    known = sorted(folder.name for folder in BUNDLES.glob("*") if bundles_in(folder))
    if not known:
        raise InputError(f"no bundles in {BUNDLES}: run the pipeline first, or name a bundle's folder with --bundle")
    if arguments.variant not in known:
        raise InputError(
            f"{BUNDLES}: no bundle of a variant '{arguments.variant}': {nearest(arguments.variant, known)}"
        )
    folder = BUNDLES / str(arguments.variant)
    precisions = bundles_in(folder)
    if arguments.precision not in precisions:
        raise InputError(f"{folder}: no bundle in '{arguments.precision}': {nearest(arguments.precision, precisions)}")
    return folder / str(arguments.precision)


def sampling_options(sub: argparse.ArgumentParser, temperature: float, top_k: int, top_p: float) -> None:
    sub.add_argument(
        "--temperature",
        type=float,
        default=temperature,
        metavar="T",
        help=f"0 takes the likeliest token, more than 1 surprises (default: {temperature})",
    )
    sub.add_argument(
        "--top-k",
        type=int,
        default=top_k,
        metavar="K",
        help=f"draw among the K likeliest tokens; 0: among all (default: {top_k})",
    )
    sub.add_argument(
        "--top-p",
        type=float,
        default=top_p,
        metavar="P",
        help=f"draw among the likeliest tokens that hold this share of the probability (default: {top_p})",
    )
    sub.add_argument("--seed", type=int, help="a number of 0 or more (default: another text each time)")


def write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
