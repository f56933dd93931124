"""The command `recurlm`: generate, fill, score and serve with a bundle, in an environment without torch; and `sync`.

recurlm generate --variant lstm --prompt "Once more" --max-new-tokens 200 --temperature 0.8 --seed 1
recurlm fill --variant bilstm "To be or ___ to be"
recurlm score --variant lstm --file my_text.txt
recurlm serve --variant lstm --precision int8
recurlm sync
"""

from __future__ import annotations

import argparse
import io
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from recurlm import __version__
from recurlm.errors import InputError, exit_cleanly, nearest

BUNDLES = Path("data/onnx")
INTERRUPTED, PIPE_CLOSED = 130, 141  # as a shell reports a program that SIGINT or SIGPIPE ended


def main() -> None:
    """The entry point. Ctrl-C, and a reader such as `head` that has seen enough, end it without a word."""
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
    """Do what the command line asks."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    arguments = parser().parse_args()
    arguments.command(arguments)


def generate(arguments: argparse.Namespace) -> None:
    from recurlm.runtime import Generator

    generator = Generator.from_bundle(_bundle(arguments), arguments.threads)
    text = generator.stream(
        arguments.prompt,
        arguments.max_new_tokens,
        arguments.temperature,
        arguments.top_k,
        arguments.top_p,
        arguments.seed,
        arguments.min_p,
        arguments.repetition_penalty,
    )
    _write(arguments.prompt)
    last = arguments.prompt
    for last in text:
        _write(last)
    if not last.endswith("\n"):
        _write("\n")


def fill(arguments: argparse.Namespace) -> None:
    from recurlm.runtime import Filler

    filler = Filler.from_bundle(_bundle(arguments), arguments.threads)
    filled = filler.fill(
        arguments.text,
        arguments.temperature,
        arguments.top_k,
        arguments.top_p,
        arguments.seed,
        arguments.max_blank_tokens,
    )
    _write(filled + "\n")


def score(arguments: argparse.Namespace) -> None:
    from recurlm.runtime import Scorer
    from recurlm.storage import to_json

    scorer = Scorer.from_bundle(_bundle(arguments), arguments.threads)
    if arguments.text is not None:
        found = scorer.score(arguments.text)
    else:
        found = scorer.score_file(arguments.file, _progress(arguments.file))
    if arguments.json:
        _write(to_json(found.metrics()))
        return
    for name, value in found.metrics().items():
        shown = "—" if value is None else f"{value:,.4f}" if isinstance(value, float) else f"{value}"
        _write(f"{name.replace('_', ' '):<27} {shown:>15}\n")


def serve(arguments: argparse.Namespace) -> None:
    try:
        from recurlm.serving.server import serve
        from recurlm.serving.settings import Limits, Settings
    except ModuleNotFoundError as error:
        raise InputError(f"serving needs {error.name}: pip install 'recurlm[serve]'") from None
    limits = Limits(
        prompt_tokens=arguments.max_prompt_tokens,
        max_tokens=arguments.max_tokens,
        batch=arguments.max_batch,
        queue=arguments.max_queue,
        body_bytes=arguments.max_body_bytes,
    )
    settings = Settings(
        bundles=_served(arguments),
        host=arguments.host,
        port=arguments.port,
        api_key=arguments.api_key if arguments.api_key is not None else os.environ.get(API_KEY),
        threads=arguments.threads,
        grace=arguments.grace,
        access_log=arguments.access_log,
        limits=limits,
    )
    serve(settings)


def _served(arguments: argparse.Namespace) -> dict[str, Path]:
    """The bundles that a server is to have, by name.

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
        bundle = Bundle.open(_bundle(arguments))
        return {f"{bundle.variant}-{bundle.precision}": bundle.folder}
    named: dict[str, Path] = {}
    for given in arguments.model:
        name, found, path = given.partition("=")
        if not (found and name and path):
            raise InputError(f"--model {given}: write it as NAME=PATH")
        if name in named:
            raise InputError(f"--model {given}: there is another model '{name}'")
        named[name] = Path(path)
    return named


def sync(arguments: argparse.Namespace) -> None:
    try:
        from recurlm.tracking.sync import sync as bring_up_to_date

        told = bring_up_to_date(Path(), arguments.tracking_uri)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("recurlm"):
            raise
        raise InputError(f"sync needs the package '{error.name}': pip install 'recurlm[pipeline]'") from None
    _write("".join(f"{line}\n" for line in told or ["nothing new"]))


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _progress(path: Path) -> Callable[[int], None] | None:
    """A line on the terminal that tells how far a long file is; None where nobody looks."""
    if not sys.stderr.isatty() or not path.is_file():
        return None
    size, begun = path.stat().st_size, time.monotonic()
    told = begun

    def tell(read: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now - told > 0.2 or (read == size and told > begun):
            told = now
            left = (now - begun) / read * (size - read)
            line = f"{read / size:4.0%} of {size / 1e6:,.1f} MB, {left:,.0f} s left" if read < size else ""
            sys.stderr.write(f"\r\033[K{line}")
            sys.stderr.flush()

    return tell


def _bundle(arguments: argparse.Namespace) -> Path:
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


class _Parser(argparse.ArgumentParser):
    """Wrong usage is bad input like any other: one line, status 2."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    top = _Parser(
        prog="recurlm",
        description="Generate, fill and score text with exported recurrent language models, and log results in MLflow.",
        allow_abbrev=False,
    )
    top.add_argument("--version", action="version", version=f"recurlm {__version__}")
    commands = top.add_subparsers(metavar="COMMAND", required=True, parser_class=_Parser)
    _generate_options(_command(commands, "generate", generate, "go on from a prompt", GENERATE_EXAMPLE))
    _fill_options(_command(commands, "fill", fill, "put words in place of ___", FILL_EXAMPLE))
    _score_options(_command(commands, "score", score, "say how likely a model finds a text", SCORE_EXAMPLE))
    _serve_options(_command(commands, "serve", serve, "answer HTTP requests, as OpenAI's completions", SERVE_EXAMPLE))
    _sync_options(_plain(commands, "sync", sync, "log the project's results in MLflow", SYNC_EXAMPLE))
    return top


GENERATE_EXAMPLE = """\
The prompt is printed first. The same seed gives the same text.

  recurlm generate --variant lstm --prompt "To be" --max-new-tokens 200 --temperature 0.8 --top-p 0.95 --seed 1
  recurlm generate --bundle path/to/bundle --prompt $'KING.\\n' | head -n 20
"""
FILL_EXAMPLE = """\
Each ___ becomes one word, found from both its sides; the text around it stays as it is. Quote the text.

  recurlm fill --variant bilstm "To be or ___ to be"
"""
SCORE_EXAMPLE = """\
Every token is scored once. A causal model predicts it from all tokens before it, beginning with the text's start. A
cloze model (bilstm) predicts it from both sides, 512 tokens at a time, with 256 more read on either side of them:
these pseudo-likelihoods compare only with one another.

  recurlm score --variant lstm --text "To be or not to be"
  recurlm score --variant lstm --file my_text.txt --json
"""
SERVE_EXAMPLE = """\
Answers POST /v1/completions, /score and /fill, GET /v1/models, /health and /metrics; /openapi.json describes them.
SIGTERM or Ctrl-C lets what runs finish. Needs: pip install 'recurlm[serve]'

  recurlm serve --variant lstm --precision int8
  recurlm serve --model small=path/to/bundle --model large=path/to/another --host 0.0.0.0
  recurlm serve --all
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{"prompt": "To be", "seed": 1}'
"""
API_KEY = "RECURLM_API_KEY"
SYNC_EXAMPLE = """\
To be called in the project's folder, as often as one likes: what MLflow has is left, what it lacks is logged. Each
proven bundle becomes a version of a registered model; the best has the alias champion.

  recurlm sync
  recurlm sync --tracking-uri http://127.0.0.1:5000
"""


def _command(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    command: Callable[[argparse.Namespace], None],
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    """A subcommand that opens a bundle, with the options that all of those have."""
    sub = _plain(commands, name, command, summary, example)
    where = sub.add_mutually_exclusive_group(required=True)
    where.add_argument("--variant", help=f"use the bundle {BUNDLES}/VARIANT/PRECISION of the current folder")
    where.add_argument("--bundle", metavar="PATH", help="use the bundle in this folder")
    if command is serve:
        where.add_argument(
            "--model",
            action="append",
            metavar="NAME=PATH",
            help="serve the bundle in this folder by this name (repeat)",
        )
        where.add_argument("--all", action="store_true", help=f"serve every bundle in {BUNDLES}, as VARIANT-PRECISION")
    sub.add_argument("--precision", default="fp32", help="fp32, int8 or int4, with --variant (default: fp32)")
    sub.add_argument("--threads", type=int, help="threads to compute with (default: 1)")
    return sub


def _plain(
    commands: argparse._SubParsersAction[_Parser],
    name: str,
    command: Callable[[argparse.Namespace], None],
    summary: str,
    example: str,
) -> argparse.ArgumentParser:
    """A subcommand without options."""
    sub = commands.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=example,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    sub.set_defaults(command=command)
    return sub


def _generate_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--prompt", required=True, help="text to go on from; '' begins a text")
    sub.add_argument("--max-new-tokens", type=int, default=200, metavar="N", help="end after N tokens (default: 200)")
    _sampling_options(sub, temperature=0.8, top_k=40, top_p=0.95)
    sub.add_argument(
        "--min-p",
        type=float,
        default=0.0,
        metavar="P",
        help="draw among tokens of at least this share of the likeliest one's probability (default: 0.0)",
    )
    sub.add_argument(
        "--repetition-penalty",
        type=float,
        default=1.0,
        metavar="R",
        help="above 1 makes tokens less likely that the text has already (default: 1.0)",
    )


def _fill_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("text", metavar="TEXT", help='such as "To be or ___ to be"')
    sub.add_argument(
        "--max-blank-tokens",
        type=int,
        metavar="N",
        help="longest word, in tokens (default: 3, and for a tokenizer of kind char 12, of kind word 1)",
    )
    _sampling_options(sub, temperature=0.0, top_k=0, top_p=1.0)


def _score_options(sub: argparse.ArgumentParser) -> None:
    what = sub.add_mutually_exclusive_group(required=True)
    what.add_argument("--text", help="text to score")
    what.add_argument("--file", type=Path, metavar="PATH", help="UTF-8 file to score, of any length")
    sub.add_argument("--json", action="store_true", help="print JSON")


def _serve_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    sub.add_argument("--port", type=int, default=8000, help="port to listen at; 0: any that is free (default: 8000)")
    sub.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"ask for this key; {API_KEY} in the environment is less visible (default: none)",
    )
    numbers = {
        "--max-prompt-tokens": (8192, "of one prompt, or of a text to score"),
        "--max-tokens": (4096, "of one completion"),
        "--max-batch": (64, "texts drawn at once with a model, and the most that one request may ask for"),
        "--max-queue": (256, "texts that may wait; beyond them the answer is 429"),
        "--max-body-bytes": (1 << 20, "of a request"),
        "--grace": (30, "seconds that SIGTERM leaves to what runs"),
    }
    for name, (default, what) in numbers.items():
        sub.add_argument(name, type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    sub.add_argument("--access-log", action="store_true", help="print a line for each request")


def _sync_options(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--tracking-uri",
        metavar="URI",
        help="of MLflow's store: a server, or a database (default: MLFLOW_TRACKING_URI, else .mlflow/ in this folder)",
    )


def _sampling_options(sub: argparse.ArgumentParser, temperature: float, top_k: int, top_p: float) -> None:
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


if __name__ == "__main__":
    main()
