"""Fetch and tokenize a large text made of the packaged plays: seconds and memory by the number of processes.

Each run is the real stage in a process of its own. Runs with one process and with two alternate, and their ratio is
that of the medians. Memory is the peak of the proportional set size (pages that processes share are divided among them)
of a stage's processes together, sampled twice a second. The ids must be the same bytes in all runs.

Command: python benchmarks/large_text.py --megabytes 100 --rounds 3 --json benchmarks/results/large_text.json
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from common import ROOT, add_json_option, write_figures

from recurlm.corpus.packaged import _paths, plain_text
from recurlm.errors import InputError, exit_cleanly
from recurlm.storage import sha256_of

STAGES = {"fetch": "fetch.py", "tokenize": "tokenize_corpus.py"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=100, help="of text")
    parser.add_argument("--documents", choices=("plays", "lines", "one"), default="plays", help="what is a document")
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=3, help="runs with each number of processes")
    parser.add_argument("--kind", default="bpe", help="of tokens")
    parser.add_argument("--folder", type=Path, help="where to work, with room for the text five times")
    add_json_option(parser)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as temporary:
        folder = Path(temporary)
        size = make_text(folder, options.megabytes * 1_000_000, options.documents)
        runs: list[dict[str, Any]] = []
        hashes: set[tuple[str, ...]] = set()
        for _ in range(options.rounds):
            for processes in options.processes:
                runs.append({"processes": processes, **run_stages(folder, processes, options)})
                hashes.add(tuple(sha256_of(path) for path in sorted((folder / "data/tokens").iterdir())))
                sys.stderr.write(f"{runs[-1]}\n")
    if len(hashes) > 1:
        raise InputError("runs with different numbers of processes wrote different bytes")
    figures = {"gigabytes": size / 1e9, "documents": options.documents, "kind": options.kind, "runs": runs}
    write_figures(options.json, figures | {"summary": summary(runs)})
    for row in summary(runs):
        print(row)


def make_text(folder: Path, size: int, documents: str) -> int:
    """Plays, each time with another word put in for some, so that not all of them are the same; returns the bytes."""
    plays = [plain_text(path.read_binary().decode("utf-8")) for path in _paths()]
    (folder / "text").mkdir()
    written = number = 0
    suffix = ".jsonl" if documents == "lines" else ".txt"
    while written < size:
        play = plays[number % len(plays)].replace(" the ", f" the {number} ", 100)
        name = "all" if documents == "one" else f"{number:06}"
        with (folder / f"text/{name}{suffix}").open("a", encoding="utf-8") as file:
            if documents == "lines":  # ten words each
                words = play.split()
                tens = (" ".join(words[start : start + 10]) for start in range(0, len(words), 10))
                written += sum(file.write(f'{{"text": "{ten.replace(chr(34), "")}"}}\n') for ten in tens)
            else:
                file.write(play)
                written += len(play.encode())
        number += 1
    return written


def run_stages(folder: Path, processes: int, options: argparse.Namespace) -> dict[str, Any]:
    """Both stages: seconds and the peak of memory in megabytes."""
    params = yaml.safe_load((ROOT / "params.yaml").read_text(encoding="utf-8"))
    params["fetch"]["source"], params["fetch"]["files"]["path"] = "files", "text/*"
    params["fetch"]["files"]["split"] = "position" if options.documents == "one" else "documents"
    params["tokenize"]["kind"], params["machine"]["processes"] = options.kind, processes
    (folder / "params.yaml").write_text(yaml.safe_dump(params), encoding="utf-8")
    shutil.rmtree(folder / "data", ignore_errors=True)
    found = {}
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    for stage, script in STAGES.items():
        command = [sys.executable, str(ROOT / "pipelines" / script)]
        started, peak = time.perf_counter(), 0
        process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
        while process.poll() is None:
            peak = max(peak, memory(process.pid))
            time.sleep(0.5)
        if process.returncode:
            raise InputError(f"{stage} failed: run {' '.join(command)} in {folder}")
        found[stage] = {"seconds": round(time.perf_counter() - started, 2), "megabytes": round(peak / 1e6)}
    return found


def memory(process: int) -> int:
    """Bytes that a process and all that it started hold, shared pages counted once."""
    try:
        root = psutil.Process(process)
        every = [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    total = 0
    for one in every:
        try:
            total += one.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


def summary(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Medians by stage and number of processes, and how many times as fast as with the first number."""
    rows = []
    first = runs[0]["processes"]
    for stage in STAGES:
        for processes in dict.fromkeys(run["processes"] for run in runs):
            own = [run[stage] for run in runs if run["processes"] == processes]
            base = statistics.median(run[stage]["seconds"] for run in runs if run["processes"] == first)
            seconds = statistics.median(run["seconds"] for run in own)
            peak = max(run["megabytes"] for run in own)
            rows.append(
                {
                    "stage": stage,
                    "processes": processes,
                    "seconds": seconds,
                    "megabytes": peak,
                    "speedup": base / seconds,
                }
            )
    return rows


if __name__ == "__main__":
    exit_cleanly(main)
