"""recurlm generate: continue a prompt."""

from __future__ import annotations

import argparse
import sys

from recurlm.cli.options import Commands, bundle_options, chosen_bundle, command, sampling_options
from recurlm.cli.streams import write

EXAMPLE = """\
The prompt is printed first. The same seed gives the same text.

  recurlm generate --variant lstm --prompt "To be" --max-new-tokens 200 --temperature 0.8 --top-p 0.95 --seed 1
  recurlm generate --bundle path/to/bundle --prompt $'KING.\\n' --stop $'\\n\\n'
"""


def add(commands: Commands) -> None:
    sub = command(commands, "generate", run, "continue a prompt", EXAMPLE)
    bundle_options(sub)
    sub.add_argument("--prompt", required=True, help="text to continue; '' begins a new one")
    sub.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="end after N tokens (default: 200)")
    sampling_options(sub, temperature=0.8, top_k=40, top_p=0.95)
    sub.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        metavar="P",
        help="sample from tokens of at least this fraction of the likeliest one's probability (default: 0.0)",
    )
    sub.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="above 1 makes tokens less likely that the text already has (default: 1.0)",
    )
    sub.add_argument(
        "--stop",
        action="append",
        metavar="TEXT",
        help="end before this text; repeat it for several (default: none)",
    )


def run(arguments: argparse.Namespace) -> None:
    from recurlm.runtime import Generator

    generator = Generator.from_bundle(chosen_bundle(arguments), arguments.threads)
    text = generator.stream(
        arguments.prompt,
        arguments.max_new_tokens,
        arguments.temperature,
        arguments.top_k,
        arguments.top_p,
        arguments.seed,
        arguments.min_p,
        arguments.repetition_penalty,
        arguments.stop,
    )
    write(arguments.prompt)
    last = arguments.prompt
    for last in text:
        write(last)
    write("" if last.endswith("\n") else "\n")
    if sys.stdout.isatty():
        write("\n")  # so that it is told from the next one
