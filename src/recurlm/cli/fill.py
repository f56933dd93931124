"""recurlm fill: mask filling."""

from __future__ import annotations

import argparse

from recurlm.cli.options import Commands, bundle_options, chosen_bundle, command, sampling_options
from recurlm.cli.progress import Progress
from recurlm.cli.streams import write

EXAMPLE = """\
Each ___ becomes one word, predicted from both sides; the text around it is unchanged. Quote the text.

  recurlm fill --variant bilstm "To be or ___ to be"
"""


def add(commands: Commands) -> None:
    sub = command(commands, "fill", run, "fill masks: put a word in place of each ___", EXAMPLE)
    bundle_options(sub)
    sub.add_argument("text", metavar="TEXT", help='such as "To be or ___ to be"')
    sub.add_argument(
        "--max-blank-tokens",
        type=int,
        metavar="N",
        help="longest word, in tokens (default: 3; 12 for a char tokenizer, 1 for a word tokenizer)",
    )
    sampling_options(sub, temperature=0.0, top_k=0, top_p=1.0)


def run(arguments: argparse.Namespace) -> None:
    from recurlm.runtime import Filler

    filler = Filler.from_bundle(chosen_bundle(arguments), arguments.threads)
    filled = filler.fill(
        arguments.text,
        arguments.temperature,
        arguments.top_k,
        arguments.top_p,
        arguments.seed,
        arguments.max_blank_tokens,
        progress=Progress("blanks"),
    )
    write(filled + "\n")
