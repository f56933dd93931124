"""recurlm sync: log the project's results in MLflow."""

from __future__ import annotations

import argparse
from pathlib import Path

from recurlm.cli.options import Commands, command
from recurlm.cli.streams import write
from recurlm.errors import InputError

EXAMPLE = """\
Call it in the project's folder, as often as you like: it logs only what MLflow lacks. Each verified bundle becomes a
version of a registered model; the best has the alias champion.

  recurlm sync
  recurlm sync --tracking-uri http://127.0.0.1:5000
"""


def add(commands: Commands) -> None:
    sub = command(commands, "sync", run, "log the project's results in MLflow", EXAMPLE)
    sub.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="of MLflow's store: a server, or a database (default: MLFLOW_TRACKING_URI, else .mlflow/ in this folder)",
    )


def run(arguments: argparse.Namespace) -> None:
    try:
        from recurlm.tracking.sync import sync as bring_up_to_date

        messages = bring_up_to_date(Path(), arguments.tracking_uri)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("recurlm"):
            raise
        raise InputError(
            f"sync needs the package '{error.name}': in recurlm's checkout, pip install '.[pipeline]'"
        ) from None
    write("".join(f"{line}\n" for line in messages or ["nothing new"]))
