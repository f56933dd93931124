"""recurlm score: log-likelihood and perplexity of a text or a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from recurlm.cli.options import Commands, bundle_options, chosen_bundle, command
from recurlm.cli.progress import Progress
from recurlm.cli.streams import write

EXAMPLE = """\
Every token is scored once. A causal model predicts it from <bos> and all tokens before it; a long file is read in
windows of 2048 tokens, side by side, each after the 256 tokens before it. A cloze model (bilstm) predicts it from both
sides, 512 tokens at a time, with 256 tokens of context on either side: these pseudo-log-likelihoods compare only with
one another.

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
        size = arguments.file.stat().st_size if arguments.file.is_file() else 0
        progress = Progress("MB", 1e6)
        score = scorer.score_file(arguments.file, (lambda read: progress(read, size)) if size else None)
    if arguments.json:
        write(to_json(score.metrics()))
        return
    for name, value in score.metrics().items():
        shown = "—" if value is None else f"{value:,.4f}" if isinstance(value, float) else f"{value}"
        write(f"{name.replace('_', ' '):<27} {shown:>15}\n")
