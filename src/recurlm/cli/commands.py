"""The subcommands of `recurlm`: each one's options, and what it does with them."""

from __future__ import annotations

import argparse
import io
import os
import sys
from dataclasses import fields
from pathlib import Path

from recurlm import __version__
from recurlm.cli.options import BUNDLES, Commands, Parser, bundle_options, chosen_bundle, command, sampling_options
from recurlm.cli.streams import Progress, write
from recurlm.errors import InputError
from recurlm.serving.settings import Limits, Settings

API_KEY = "RECURLM_API_KEY"
SAMPLING = ("temperature", "top_k", "top_p", "seed")

GENERATE = """\
The prompt is printed first. The same seed gives the same text.

  recurlm generate --variant lstm --prompt "To be" --max-new-tokens 200 --temperature 0.8 --top-p 0.95 --seed 1
  recurlm generate --bundle path/to/bundle --prompt $'KING.\\n' --stop $'\\n\\n'
"""
FILL = """\
Each ___ becomes one word, predicted from both sides; the text around it is unchanged. Quote the text.

  recurlm fill --variant bilstm "To be or ___ to be"
"""
SCORE = """\
Every token is scored once. A causal model predicts it from <bos> and all tokens before it; a long file is read in
windows of 2048 tokens, side by side, each after the 256 tokens before it. A cloze model (bilstm) predicts it from both
sides, 512 tokens at a time, with 256 tokens of context on either side: these pseudo-log-likelihoods compare only with
one another.

  recurlm score --variant lstm --text "To be or not to be"
  recurlm score --variant lstm --file my_text.txt --json
"""
SERVE = """\
Answers POST /v1/completions, /score and /fill, GET /v1/models, /health and /metrics; /openapi.json describes them.
SIGTERM or Ctrl-C lets running requests finish. In a checkout, pip install -e '.[serve]' installs what it needs;
elsewhere pip install fastapi prometheus-client pydantic uvicorn.

  recurlm serve --variant lstm --precision int8
  recurlm serve --model small=path/to/bundle --model large=path/to/another --host 0.0.0.0
  recurlm serve --all
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{"prompt": "To be", "seed": 1}'
"""
SYNC = """\
Call it in the project's folder, as often as you like: it logs only what MLflow lacks. Each verified bundle becomes a
version of a registered model; the best has the alias champion.

  recurlm sync
  recurlm sync --tracking-uri http://127.0.0.1:5000
"""


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
        if sys.stdout is None and arguments.command is not serve:
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
    for add in (_add_generate, _add_fill, _add_score, _add_serve, _add_sync):
        add(commands)
    return top


def _add_generate(commands: Commands) -> None:
    sub = command(commands, "generate", generate, "continue a prompt", GENERATE)
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
    help = "end before this text; repeat it for several (default: none)"
    sub.add_argument("--stop", action="append", metavar="TEXT", help=help)


def generate(arguments: argparse.Namespace) -> None:
    from recurlm.runtime import Generator

    generator = Generator.from_bundle(chosen_bundle(arguments), arguments.threads)
    names = ("max_new_tokens", *SAMPLING, "min_p", "repetition_penalty", "stop")
    text = generator.stream(arguments.prompt, **{name: getattr(arguments, name) for name in names})
    last = arguments.prompt
    write(last)
    for last in text:
        write(last)
    write("" if last.endswith("\n") else "\n")
    if sys.stdout.isatty():
        write("\n")  # so that it is told from the next one


def _add_fill(commands: Commands) -> None:
    sub = command(commands, "fill", fill, "fill masks: put a word in place of each ___", FILL)
    bundle_options(sub)
    sub.add_argument("text", metavar="TEXT", help='such as "To be or ___ to be"')
    longest = "longest word, in tokens (default: 3; 12 for a char tokenizer, 1 for a word tokenizer)"
    sub.add_argument("--max-mask-tokens", type=int, metavar="N", help=longest)
    sampling_options(sub, temperature=0.0, top_k=0, top_p=1.0)


def fill(arguments: argparse.Namespace) -> None:
    from recurlm.runtime import Filler

    filler = Filler.from_bundle(chosen_bundle(arguments), arguments.threads)
    settings = {name: getattr(arguments, name) for name in (*SAMPLING, "max_mask_tokens")}
    write(filler.fill(arguments.text, **settings, progress=Progress("masks")) + "\n")


def _add_score(commands: Commands) -> None:
    sub = command(commands, "score", score, "compute the log-likelihood and perplexity of a text", SCORE)
    bundle_options(sub)
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="text to score")
    what.add_argument("--file", type=Path, metavar="PATH", help="UTF-8 file to score, of any length")
    sub.add_argument("--json", action="store_true", help="print JSON")


def score(arguments: argparse.Namespace) -> None:
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


def _add_serve(commands: Commands) -> None:
    sub = command(commands, "serve", serve, "serve bundles over HTTP, with OpenAI's completions API", SERVE)
    bundle_options(sub, several=True)
    sub.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    sub.add_argument("--port", type=int, default=8000, help="port to listen at; 0: any that is free (default: 8000)")
    key = f"ask for this key; {API_KEY} in the environment is less visible (default: none)"
    sub.add_argument("--api-key", metavar="KEY", help=key)
    whole = {field.name: (field.default, field.metadata["help"]) for field in fields(Limits) if field.metadata}
    whole["grace"] = (Settings.grace, "seconds for running requests to finish after SIGTERM")
    for name, (default, what) in whole.items():
        option = f"--{name.replace('_', '-')}"
        sub.add_argument(option, type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    sub.add_argument("--access-log", action="store_true", help="print a line for each request")


def serve(arguments: argparse.Namespace) -> None:
    try:
        from recurlm.serving.server import serve
    except ModuleNotFoundError as error:
        packages = "fastapi prometheus-client pydantic uvicorn"
        raise InputError(f"serving needs {error.name}: pip install {packages}") from None
    from recurlm.runtime.session import check_threads

    check_threads(arguments.threads)
    limits = Limits(**{field.name: getattr(arguments, field.name) for field in fields(Limits) if field.metadata})
    settings = Settings(
        bundles=_bundles(arguments),
        host=arguments.host,
        port=arguments.port,
        api_key=arguments.api_key if arguments.api_key is not None else os.environ.get(API_KEY),
        threads=arguments.threads,
        grace=arguments.grace,
        access_log=arguments.access_log,
        limits=limits,
    )
    serve(settings)


def _bundles(arguments: argparse.Namespace) -> dict[str, Path]:
    """The folders of the bundles to serve, by name.

    Raises:
        InputError: there are none, or two of one name.
    """
    from recurlm.runtime.bundle import Bundle, bundles_in

    if arguments.all:
        folders = sorted(path for path in BUNDLES.glob("*") if bundles_in(path))
        if not folders:
            raise InputError(f"no bundles in {BUNDLES}: run the pipeline first, or name bundles with --model NAME=PATH")
        return {f"{folder.name}-{name}": folder / name for folder in folders for name in bundles_in(folder)}
    if arguments.model is None:
        bundle = Bundle.open(chosen_bundle(arguments))
        return {f"{bundle.variant}-{bundle.precision}": bundle.folder}
    named: dict[str, Path] = {}
    for given in arguments.model:
        name, separator, path = given.partition("=")
        if not (separator and name and path):
            raise InputError(f"--model {given}: write it as NAME=PATH")
        if name in named:
            raise InputError(f"--model {given}: there is another model '{name}'")
        named[name] = Path(path)
    return named


def _add_sync(commands: Commands) -> None:
    sub = command(commands, "sync", sync, "log the project's results in MLflow", SYNC)
    uri = "of MLflow's store: a server, or a database (default: MLFLOW_TRACKING_URI, else .mlflow/ in this folder)"
    sub.add_argument("--tracking-uri", metavar="URI", help=uri)


def sync(arguments: argparse.Namespace) -> None:
    try:
        from recurlm.tracking.sync import sync as bring_up_to_date

        messages = bring_up_to_date(Path(), arguments.tracking_uri)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("recurlm"):
            raise
        raise InputError(
            f"sync needs the package '{error.name}': in recurlm's checkout, pip install -e '.[pipeline]'"
        ) from None
    write("".join(f"{line}\n" for line in messages or ["nothing new"]))
