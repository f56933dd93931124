"""recurlm serve: bundles behind HTTP."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from recurlm.cli.options import BUNDLES, Commands, bundle_options, chosen_bundle, command
from recurlm.errors import InputError

API_KEY = "RECURLM_API_KEY"
EXAMPLE = """\
Answers POST /v1/completions, /score and /fill, GET /v1/models, /health and /metrics; /openapi.json describes them.
SIGTERM or Ctrl-C lets running requests finish. In a checkout, pip install '.[serve]' installs what it needs; elsewhere
pip install fastapi prometheus-client pydantic uvicorn.

  recurlm serve --variant lstm --precision int8
  recurlm serve --model small=path/to/bundle --model large=path/to/another --host 0.0.0.0
  recurlm serve --all
  curl http://127.0.0.1:8000/v1/completions -H 'Content-Type: application/json' -d '{"prompt": "To be", "seed": 1}'
"""


def add(commands: Commands) -> None:
    sub = command(commands, "serve", run, "serve bundles over HTTP, with OpenAI's completions API", EXAMPLE)
    bundle_options(sub, several=True)
    sub.add_argument("--host", default="127.0.0.1", help="address to listen at (default: 127.0.0.1)")
    sub.add_argument("--port", type=int, default=8000, help="port to listen at; 0: any that is free (default: 8000)")
    sub.add_argument(
        "--api-key",
        metavar="KEY",
        help=f"ask for this key; {API_KEY} in the environment is less visible (default: none)",
    )
    limits = {
        "--max-prompt-tokens": (8192, "of one prompt, or of a text to score"),
        "--max-tokens": (4096, "of one completion"),
        "--max-batch": (64, "the largest batch of a model, and the most texts of one request"),
        "--max-queue": (256, "texts that may wait; beyond that the answer is 429"),
        "--max-body-bytes": (1 << 20, "of a request"),
        "--max-connections": (1000, "open at once; beyond that, who has waited longest without a request is dropped"),
        "--header-seconds": (10, "for a request's headers to arrive"),
        "--body-seconds": (30, "for a request's body to arrive"),
        "--grace": (30, "seconds for running requests to finish after SIGTERM"),
    }
    for name, (default, what) in limits.items():
        sub.add_argument(name, type=int, default=default, metavar="N", help=f"{what} (default: {default})")
    sub.add_argument("--access-log", action="store_true", help="print a line for each request")


def run(arguments: argparse.Namespace) -> None:
    try:
        from recurlm.serving.server import serve
        from recurlm.serving.settings import Limits, Settings
    except ModuleNotFoundError as error:
        packages = "fastapi prometheus-client pydantic uvicorn"
        raise InputError(f"serving needs {error.name}: pip install {packages}") from None
    limits = Limits(
        prompt_tokens=arguments.max_prompt_tokens,
        max_tokens=arguments.max_tokens,
        batch=arguments.max_batch,
        queue=arguments.max_queue,
        body_bytes=arguments.max_body_bytes,
        connections=arguments.max_connections,
        header_seconds=arguments.header_seconds,
        body_seconds=arguments.body_seconds,
    )
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
