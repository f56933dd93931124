"""The command `recurlm`: generate, fill, score and serve with a bundle, in an environment without torch; and `sync`.

recurlm generate --variant lstm --prompt "Once more" --max-new-tokens 200 --temperature 0.8 --seed 1
recurlm fill --variant bilstm "To be or ___ to be"
recurlm score --variant lstm --file my_text.txt
recurlm serve --variant lstm --precision int8
recurlm sync
"""

from __future__ import annotations

import io
import os
import sys

from recurlm import __version__
from recurlm.cli import fill, generate, score, serve, sync
from recurlm.cli.options import Parser
from recurlm.errors import exit_cleanly

INTERRUPTED, PIPE_CLOSED = 130, 141  # as a shell reports a program that SIGINT or SIGPIPE ended


def main() -> None:
    """The entry point. Ctrl-C, and a closed pipe such as `head` leaves, end it without a message."""
    try:
        exit_cleanly(run)
        sys.stdout.flush()
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        # Python flushes once more at exit, which must not meet the closed pipe again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(PIPE_CLOSED)


def run() -> None:
    """Parse the command line and run its subcommand."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    arguments = parser().parse_args()
    arguments.command(arguments)


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
