"""How many requests `recurlm serve` answers, and how fast, at 1, 8 and 64 clients.

Starts a server for each bundle, with its clients on the same machine; each client sends one request after another. The
requests are the same in every measurement: prompts of 1 to 12 words, 32 to 96 tokens, each with its own seed.
`alone` is the same server with --max-batch 1, which draws for one request after another. The column CPU is the
processor time of the server alone for a request: unlike the others, it hardly depends on what else the machine does.

    recurlm serve's texts     python benchmarks/serving.py --bundles data/onnx/lstm/int8 data/onnx/lstm/fp32
    the same, streamed        python benchmarks/serving.py --bundles data/onnx/lstm/int8 --stream

Prints a table; `--json FILE` keeps all figures.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx2 as httpx
from common import add_json_option, write_figures

CLIENTS = (1, 8, 64)
WORDS = ["the", "king", "of", "night", "and", "storm", "to", "be", "or", "not", "my", "lord"]
ANNOUNCED = re.compile(r"recurlm: (http://\S+) serves ")


@dataclass
class Figures:
    """Of one measurement; latencies in milliseconds, to the whole answer and to its first piece."""

    bundle: str
    batched: bool
    clients: int
    requests: int
    requests_per_second: float
    tokens_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_ms_per_request: float
    first_p50_ms: float | None


def request(number: int, stream: bool) -> dict[str, Any]:
    """The request of a number, always the same."""
    prompt = " ".join(WORDS[: 1 + number % len(WORDS)])
    settings = {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "seed": number}
    options = {"stream": True, "stream_options": {"include_usage": True}} if stream else {}
    return {"prompt": prompt, "max_tokens": 32 + 13 * number % 65, **settings, **options}


@contextlib.contextmanager
def server(bundle: Path, batched: bool) -> Iterator[str]:
    """The address of a server of one bundle."""
    command = [sys.executable, "-m", "recurlm.cli", "serve", "--bundle", str(bundle), "--port", "0"]
    if not batched:
        command += ["--max-batch", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        try:
            announced = ANNOUNCED.match(line := process.stderr.readline())
            if not announced:
                sys.exit(f"no server: {line}")
            yield announced[1]
        finally:
            process.terminate()


def cpu_seconds(url: str) -> float:
    """The processor time that the server has used."""
    lines = httpx.get(f"{url}/metrics", verify=False).text.splitlines()
    return float(next(line for line in lines if line.startswith("process_cpu_seconds_total")).split()[1])


async def measure(url: str, clients: int, seconds: float, stream: bool) -> tuple[list[float], list[float], int, float]:
    """Latencies, those to the first piece, tokens, and the seconds that it took."""
    latencies: list[float] = []
    firsts: list[float] = []
    tokens, numbers = 0, itertools.count()
    limits = httpx.Limits(max_connections=clients, max_keepalive_connections=clients)
    async with httpx.AsyncClient(base_url=url, timeout=120, limits=limits, verify=False) as http:

        async def ask() -> None:
            nonlocal tokens
            begun, first, last = time.perf_counter(), None, ""
            async with http.stream("POST", "/v1/completions", json=request(next(numbers), stream)) as answer:
                answer.raise_for_status()
                async for line in answer.aiter_lines():
                    first = first or time.perf_counter()
                    last = line if line and line != "data: [DONE]" else last
            assert first is not None
            latencies.append(time.perf_counter() - begun)
            firsts.append(first - begun)
            tokens += json.loads(last.removeprefix("data: "))["usage"]["completion_tokens"]

        async def client(until: float) -> None:
            while time.perf_counter() < until:
                await ask()

        await ask()
        latencies.clear()
        firsts.clear()
        tokens, begun = 0, time.perf_counter()
        await asyncio.gather(*(client(begun + seconds) for _ in range(clients)))
        return latencies, firsts, tokens, time.perf_counter() - begun


def figures(bundle: Path, batched: bool, clients: int, seconds: float, stream: bool) -> Figures:
    with server(bundle, batched) as url:
        before = cpu_seconds(url)
        latencies, firsts, tokens, took = asyncio.run(measure(url, clients, seconds, stream))
        used = cpu_seconds(url) - before
    percentiles = statistics.quantiles(latencies, n=100, method="inclusive")
    return Figures(
        bundle="/".join(bundle.parts[-2:]),
        batched=batched,
        clients=clients,
        requests=len(latencies),
        requests_per_second=len(latencies) / took,
        tokens_per_second=tokens / took,
        p50_ms=1000 * percentiles[49],
        p99_ms=1000 * percentiles[98],
        cpu_ms_per_request=1000 * used / (len(latencies) + 1),
        first_p50_ms=1000 * statistics.median(firsts) if stream else None,
    )


def row(measured: Figures) -> str:
    first = "" if measured.first_p50_ms is None else f" {measured.first_p50_ms:,.0f} |"
    cpu = f"{measured.cpu_ms_per_request:,.1f}"
    return (
        f"| {measured.bundle} {'' if measured.batched else 'alone'} | {measured.clients} "
        f"| {measured.requests_per_second:,.1f} "
        f"| {measured.tokens_per_second:,.0f} "
        f"| {measured.p50_ms:,.0f} | {measured.p99_ms:,.0f} | {cpu} |{first}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, nargs="+", default=[Path("data/onnx/lstm/int8")])
    parser.add_argument("--clients", type=int, nargs="+", default=CLIENTS)
    parser.add_argument("--seconds", type=float, default=10, help="of each measurement")
    parser.add_argument("--stream", action="store_true", help="ask for streams, and tell when their first piece comes")
    add_json_option(parser)
    arguments = parser.parse_args()
    heads = ["bundle", "clients", "requests/s", "tokens/s", "p50, ms", "p99, ms", "CPU, ms a request"]
    heads += ["first piece p50, ms"] if arguments.stream else []
    print(f"| {' | '.join(heads)} |\n|---{'|--:' * (len(heads) - 1)}|")
    measurements = []
    for bundle, batched, clients in itertools.product(arguments.bundles, (False, True), arguments.clients):
        measured = figures(bundle, batched, clients, arguments.seconds, arguments.stream)
        print(row(measured), flush=True)
        measurements.append(asdict(measured))
    write_figures(arguments.json, {"measurements": measurements})


if __name__ == "__main__":
    main()
