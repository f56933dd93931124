"""Where a bundle runs: each file in each precision in other runtimes than the one that it was verified with.

Each runtime is installed from PyPI or npm into an environment of its own, below --environments, and asked for the same
tokens from the same uniform numbers. What counts is whether they are those of this environment's onnxruntime, at which
token the first other one comes, and how many a second of processor time gives, on one thread.

    python benchmarks/runtimes.py --json benchmarks/results/runtimes.json
    python benchmarks/runtimes.py --variants gru --runtimes tract onnx.reference --texts 5 --tokens 50
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, add_json_option, write_figures

from recurlm.errors import InputError, exit_cleanly
from recurlm.runtime.session import DEFAULTS

OLDEST = "onnxruntime 1.15.1"  # with wheels for Python 3.11
WEB = "onnxruntime-web"
# Name → what to install, and which of runtime_worker.py's loaders runs it.
RUNTIMES: dict[str, tuple[list[str], str]] = {
    "onnxruntime": ([], "onnxruntime"),  # that of this environment
    OLDEST: (["onnxruntime==1.15.1", "numpy<2"], "onnxruntime"),
    WEB: ([], WEB),
    "OpenVINO": (["openvino==2026.4.1", "numpy"], "openvino"),
    "tract": (["tract==0.23.9", "numpy"], "tract"),
    "onnx.reference": ([], "onnx.reference"),
}
PRECISIONS = ("fp32", "int8", "int4")
PROMPT = 20  # tokens
FEW = {"onnx.reference": 3}  # texts in a runtime that takes long
FEWER = 20  # texts of step.onnx, which makes them call after call, and of filler.onnx
NATS = 1e-4  # that a score may be off


def sampled(folder: Path, description: dict[str, Any], texts: int, tokens: int) -> list[dict[str, Any]]:
    """The jobs of a bundle: `texts` of `tokens` tokens that each of its graphs makes, and the scores of one text."""
    draw = np.random.default_rng(1)
    size, bos = description["vocab_size"], description["special"]["bos"]
    usual = [token for token in range(size) if token not in description["suppressed_tokens"] and token != bos]
    prompt = [bos, *draw.choice(usual, PROMPT).tolist()]
    uniform = draw.random((texts, tokens), np.float32).tolist()
    text = [bos, *draw.choice(usual, tokens - 1).tolist()]
    scored = {"tokens": ([text], "int64", [1, tokens]), "length": ([tokens], "int64", [1])}
    settings = {
        "temperature": ([1.0], "float32", [1]),
        "top_k": ([0], "int64", [1]),
        "top_p": ([1.0], "float32", [1]),
    }
    numbers = [settings | {"uniform": ([row], "float32", [1, tokens])} for row in uniform]
    if description["objective"] == "cloze":
        calls = [scored | row for row in numbers[:FEWER]]
        return [{"file": str(folder / "filler.onnx"), "calls": calls, "outputs": ["filled"]}]
    state = {
        f"state.{name}": (np.zeros((1, *shape)).tolist(), "float32", [1, *shape])
        for name, shape in description["state_spec"].items()
    }
    widths = {"seen": [1, size]}
    neutral = {
        name: (np.full(widths.get(name, [1]), value).tolist(), str(value.dtype), widths.get(name, [1]))
        for name, value in DEFAULTS.items()
    }
    given = {
        "prompt": ([prompt], "int64", [1, len(prompt)]),
        "prompt_length": ([len(prompt)], "int64", [1]),
        "max_new_tokens": (tokens, "int64", []),
    }
    steps = {"description": description, "prompt": prompt, "uniform": uniform[:FEWER], "temperature": 1.0}
    return [
        {"file": str(folder / "step.onnx"), **steps},
        {
            "file": str(folder / "generator.onnx"),
            "calls": [given | row | neutral | state for row in numbers],
            "outputs": ["tokens"],
        },
        {"file": str(folder / "scorer.onnx"), "calls": [scored | state] * 2, "outputs": ["log_prob"]},
    ]


def first_texts(job: dict[str, Any], count: int) -> dict[str, Any]:
    """The job with fewer texts."""
    return {name: value[:count] if name in ("calls", "uniform") else value for name, value in job.items()}


def run(name: str, jobs: list[dict[str, Any]], environments: Path) -> dict[str, Any]:
    """The version of a runtime, and what became of each job."""
    packages, loader = RUNTIMES[name]
    place = Path(__file__).parent
    if loader == WEB:
        return run_in_node(place / "runtime_worker.mjs", jobs)
    python = installed(environments / name.replace(" ", "-"), packages) if packages else sys.executable
    return asked([python, str(place / "runtime_worker.py"), loader], jobs)


def asked(command: list[str], jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """A worker's answer.

    Raises:
        InputError: it ended without one.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "ORT_DISABLE_TELEMETRY": "1"}
    ran = subprocess.run(command, input=json.dumps(jobs), capture_output=True, text=True, check=False, env=environment)
    if ran.returncode:
        raise InputError(f"{' '.join(command)}: {' '.join(ran.stderr.split())[-300:]}")
    answer: dict[str, Any] = json.loads(ran.stdout)
    return answer


def run_in_node(worker: Path, jobs: list[dict[str, Any]]) -> dict[str, Any]:
    """In node, with the playground's packages: node looks for them above the file that it runs."""
    node = shutil.which("node", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    packages = ROOT / "playground/node_modules"
    if node is None or not packages.is_dir():
        raise InputError(
            "onnxruntime-web needs node and playground/node_modules: pip install -e '.[playground]', make playground"
        )
    folder = packages / f".runtimes-{os.getpid()}"
    folder.mkdir()
    try:
        shutil.copy(worker, folder)
        return asked([node, str(folder / worker.name)], jobs)
    finally:
        shutil.rmtree(folder)


def installed(folder: Path, packages: list[str]) -> str:
    """The Python of an environment with these packages, made where it is missing."""
    python, done = str(folder / "bin/python"), folder / "installed"
    if not done.exists() or done.read_text() != " ".join(packages):
        venv.create(folder, with_pip=True, clear=True)
        subprocess.run([python, "-m", "pip", "install", "--quiet", *packages], check=True)
        done.write_text(" ".join(packages))
    return python


def compared(job: dict[str, Any], known: dict[str, Any], answer: dict[str, Any], tokens: int) -> dict[str, Any]:
    """A cell of the table: whether it runs, how many texts are equal, where the first other token comes, tokens/s."""
    if "error" in answer:
        return {"runs": False, "error": answer["error"]}
    pairs = list(zip(known["results"], answer["results"], strict=False))
    if job["file"].endswith("scorer.onnx"):
        off = max(float(np.abs(np.ravel(a["log_prob"]) - np.ravel(b["log_prob"])).max()) for a, b in pairs)
        return {"runs": True, "largest_difference_nats": off, "tokens_per_second": tokens / answer["seconds"]}
    flat = [[np.ravel(text[job["outputs"][0]] if "outputs" in job else text) for text in pair] for pair in pairs]
    others = [int(np.argmax(a != b)) for a, b in flat if (a != b).any()]
    return {
        "runs": True,
        "texts": len(flat),
        "equal_texts": len(flat) - len(others),
        "first_other_token": sorted(others),
        "tokens_per_second": tokens / answer["seconds"],
    }


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    jobs, labels = [], []
    for variant in arguments.variants:
        for precision in arguments.precisions:
            folder = (arguments.bundles / variant / precision).resolve()
            if not (folder / "bundle.json").is_file():
                raise InputError(f"{folder}: no bundle: run dvc repro, or name another --bundles")
            description = json.loads((folder / "bundle.json").read_text(encoding="utf-8"))
            for job in sampled(folder, description, arguments.texts, arguments.tokens):
                jobs.append(job)
                labels.append((f"{variant} {Path(job['file']).name}", precision))
    known = run("onnxruntime", jobs, arguments.environments)
    figures: dict[str, Any] = {}
    for name in arguments.runtimes:
        own = [first_texts(job, FEW.get(name, arguments.texts)) for job in jobs]
        answer = known if name == "onnxruntime" else run(name, own, arguments.environments)
        rows: dict[str, Any] = {}
        for (file, precision), job, right, got in zip(labels, own, known["jobs"], answer["jobs"], strict=True):
            rows.setdefault(file, {})[precision] = compared(job, right, got, arguments.tokens)
        figures[name] = {"version": answer["version"], "files": rows}
        print(f"{name} {answer['version']}: measured", file=sys.stderr, flush=True)
    return figures


def table(figures: dict[str, Any]) -> str:
    """The table of docs/deploying.md."""
    lines = ["| runtime | file | fp32 | int8 | int4 |", "|---|---|---|---|---|"]
    for name, measured in figures.items():
        title = name if measured["version"] in name else f"{name} {measured['version']}"
        for file, rows in measured["files"].items():
            cells = [cell(rows[precision]) if precision in rows else "—" for precision in PRECISIONS]
            lines.append(f"| {title} | {file} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(row: dict[str, Any]) -> str:
    """Whether a file runs, the same tokens or where others begin, tokens/s."""
    if not row["runs"]:
        return "does not run"
    speed = f"{row['tokens_per_second']:,.0f}"
    if "texts" not in row:
        off = row["largest_difference_nats"]
        return f"{'equal' if off <= NATS else f'off by {off:.1g} nats'}; {speed}"
    others, texts = row["first_other_token"], row["texts"]
    if not others:
        return f"{texts} of {texts} equal; {speed}"
    return f"{texts - len(others)} of {texts} equal, first other token {others[0] + 1}; {speed}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundles", type=Path, default=ROOT / "data/onnx", metavar="FOLDER")
    parser.add_argument("--variants", nargs="+", default=["lstm", "bilstm"])
    parser.add_argument("--precisions", nargs="+", default=list(PRECISIONS), choices=PRECISIONS)
    parser.add_argument("--runtimes", nargs="+", default=list(RUNTIMES), choices=list(RUNTIMES))
    parser.add_argument("--texts", type=int, default=100)
    parser.add_argument("--tokens", type=int, default=200, help="of each text")
    parser.add_argument("--environments", type=Path, default=ROOT / ".cache/runtimes", metavar="FOLDER")
    add_json_option(parser)
    arguments = parser.parse_args()
    figures = measure(arguments)
    print(table(figures))
    write_figures(arguments.json, {"tokens": arguments.tokens, "runtimes": figures})


if __name__ == "__main__":
    exit_cleanly(main)
