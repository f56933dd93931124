"""The subcommands of `recurlm`, parsed and run."""

from __future__ import annotations

import io
import sys

from recurlm import __version__
from recurlm.cli import fill, generate, score, serve, sync
from recurlm.cli.options import Parser
from recurlm.cli.streams import write
from recurlm.errors import InputError


def run() -> None:
    """Parse the command line and run its subcommand.

    Raises:
        InputError: wrong usage, bad input, or no stdout to print to.
        BrokenPipeError: nobody reads stdout any more.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    try:
        arguments = parser().parse_args()
        if sys.stdout is None and arguments.command is not serve.run:
            raise InputError("stdout is closed: there is nowhere to print to")
        arguments.command(arguments)
    finally:
        write("")  # flushes what --help printed


def parser() -> Parser:
    """The parser of the command line."""
    top = Parser(
        prog="recurlm",
        description="Generate, fill and score text with exported recurrent language models, and log results in MLflow.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"recurlm {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=Parser)
    for subcommand in (generate, fill, score, serve, sync):
        subcommand.add(commands)
    return top
