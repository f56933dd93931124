"""The command that fills a page of docs/ between its marks, or checks that it is filled."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path

from recurlm.errors import InputError
from recurlm.storage import whole_file


def fill_page(page: Path, command: str, fill: Callable[[str, bool], str], stale: str) -> None:
    """Read the arguments and fill the page.

    Args:
        command: how this is called.
        fill: gives the filled page, from the page and whether it is only checked.
        stale: what a page that is not filled anew has, for the message of --check.

    Raises:
        InputError: there is no such page; or, with --check, it would be another one.
    """
    parser = argparse.ArgumentParser(prog=command, description=f"Fill {page}.")
    parser.add_argument("--check", action="store_true", help="change nothing; status 2 if the page would change")
    check = parser.parse_args().check
    if not page.is_file():
        raise InputError(f"{page}: no such file: call this in the project's folder")
    text = page.read_text(encoding="utf-8")
    filled = fill(text, check)
    if filled == text:
        sys.stderr.write(f"{page}: nothing new\n")
    elif check:
        raise InputError(f"{page}: {stale}: {command}")
    else:
        with whole_file(page) as partial:
            partial.write_text(filled, encoding="utf-8")
        sys.stderr.write(f"{page}: filled\n")
