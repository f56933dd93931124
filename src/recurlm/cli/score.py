"""recurlm score: log-likelihood and perplexity of a text or a file."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from recurlm.cli.options import Commands, bundle_options, chosen_bundle, command, write

EXAMPLE = """\
Every token is scored once. A causal model predicts it from <bos> and all tokens before it. A cloze model (bilstm)
predicts it from both sides, 512 tokens at a time, with 256 tokens of context on either side: these
pseudo-log-likelihoods compare only with one another.

  recurlm score --variant lstm --text "To be or not to be"
  recurlm score --variant lstm --file my_text.txt --json
"""


def add(commands: Commands) -> None:
    sub = command(commands, "score", run, "compute the log-likelihood and perplexity of a text", EXAMPLE)
    bundle_options(sub)
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="text to score")
    what.add_argument("--file", type=Path, metavar="PATH", help="UTF-8 file to score, of any length")
    sub.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> None:
    from recurlm.runtime import Scorer
    from recurlm.storage import to_json

    scorer = Scorer.from_bundle(chosen_bundle(arguments), arguments.threads)
    if arguments.text is not None:
        score = scorer.score(arguments.text)
    else:
        score = scorer.score_file(arguments.file, progress(arguments.file))
    if arguments.json:
        write(to_json(score.metrics()))
        return
    for name, value in score.metrics().items():
        shown = "—" if value is None else f"{value:,.4f}" if isinstance(value, float) else f"{value}"
        write(f"{name.replace('_', ' '):<27} {shown:>15}\n")


def progress(path: Path) -> Callable[[int], None] | None:
    """A progress line on the terminal; None where stderr is no terminal."""
    if not sys.stderr.isatty() or not path.is_file():
        return None
    size, start = path.stat().st_size, time.monotonic()
    updated = start

    def update(read: int) -> None:
        nonlocal updated
        now = time.monotonic()
        if now - updated > 0.2 or (read == size and updated > start):
            updated = now
            left = (now - start) / read * (size - read)
            line = f"{read / size:4.0%} of {size / 1e6:,.1f} MB, {left:,.0f} s left" if read < size else ""
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()

    return update
