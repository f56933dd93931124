"""Mutation tests: of small changes to the source, made one at a time, how many does a test notice?

Cosmic Ray makes the changes (a sign, a comparison, a number, a condition, a loop that never runs). A sample of them is
drawn, and for each one the tests that run the changed line are started, the quickest of each test function first, until
one fails. Which tests these are is taken from a run of the tests under coverage.py:

    pip install cosmic-ray pytest-cov
    python benchmarks/mutants.py record                 # once: runs the tests, to .cache/mutants
    python benchmarks/mutants.py run --sample 300 --json benchmarks/results/mutants.json
    python benchmarks/mutants.py run --again benchmarks/results/mutants.json    # the survivors of that run

Works in a clone of the checkout under .cache/mutants, so that what is mutated is never what one works on.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from common import ROOT, add_json_option, write_figures

from recurlm.errors import InputError, exit_cleanly
from recurlm.storage import read_json

PACKAGES = ("variants", "evaluation", "export", "verify", "runtime")
TESTS = ("cells", "diagnostics", "evaluation", "export", "model", "runtime", "variants", "verify")
STORE = ROOT / ".cache/mutants"
CLONE = STORE / "clone"
# One change of each kind: eleven for one plus sign tell no more than one does.
OPERATORS = (
    *(f"ReplaceBinaryOperator_{change}" for change in ("Add_Sub", "Sub_Add", "Mul_Div", "Div_Mul", "FloorDiv_Mul")),
    *(f"ReplaceBinaryOperator_{change}" for change in ("Mod_Mul", "Pow_Mul", "BitAnd_BitOr", "BitOr_BitAnd")),
    *(f"ReplaceComparisonOperator_{change}" for change in ("Eq_NotEq", "NotEq_Eq", "Lt_LtE", "LtE_Lt", "Gt_GtE")),
    *(f"ReplaceComparisonOperator_{change}" for change in ("GtE_Gt", "Is_IsNot", "IsNot_Is")),
    *("ReplaceUnaryOperator_Delete_USub", "ReplaceUnaryOperator_Delete_Not", "AddNot", "NumberReplacer"),
    *("ReplaceTrueWithFalse", "ReplaceFalseWithTrue", "ReplaceAndWithOr", "ReplaceOrWithAnd"),
    *("ReplaceBreakWithContinue", "ReplaceContinueWithBreak", "ExceptionReplacer", "ZeroIterationForLoop"),
)
IMPORTED_ONCE = (
    "torch",
    "onnx",
    "onnxruntime",
    "onnx_ir",
    "onnxscript",
    "hypothesis",
    "pytest",
    "beartype",
    "scipy.stats",
)


@dataclass(frozen=True)
class Mutant:
    """The `occurrence`th place of one operator in one file, and the line that it changes."""

    file: str
    operator: str
    occurrence: int
    line: int


def record() -> None:
    """Run the tests once under coverage, with the name of each test beside the lines that it runs, and their times."""
    STORE.mkdir(parents=True, exist_ok=True)
    sources = ",".join(str(ROOT / "src/recurlm" / package) for package in PACKAGES)
    (STORE / "coveragerc").write_text(
        f"[run]\nsource = {sources}\ndata_file = {STORE / 'coverage'}\n", encoding="utf-8"
    )
    options = ["-p", "pytest_cov", "-q", "--cov", f"--cov-config={STORE / 'coveragerc'}", "--cov-context=test"]
    options += ["--cov-report=", f"--junitxml={STORE / 'times.xml'}", "-o", "junit_family=xunit1"]
    folders = [f"tests/{folder}" for folder in TESTS]
    subprocess.run([sys.executable, "-m", "pytest", *options, "-m", "not system and not slow", *folders], cwd=ROOT)


def tests_by_line() -> tuple[dict[tuple[str, int], list[str]], dict[str, float]]:
    """Of each line (file under src/recurlm, number) the tests that run it and passed, and the seconds of each test."""
    from coverage import CoverageData

    seconds = {}
    for case in ElementTree.parse(STORE / "times.xml").iter("testcase"):  # pytest wrote it
        if case.find("failure") is None and case.find("error") is None:
            seconds[f"{case.get('file')}::{case.get('name')}"] = float(case.get("time", 0))
    of_file = defaultdict(list)
    for name in seconds:
        of_file[name.partition("::")[0]].append(name)
    data = CoverageData(str(STORE / "coverage"))
    data.read()
    tests: dict[tuple[str, int], list[str]] = defaultdict(list)
    for path in data.measured_files():
        file = path.partition("/src/recurlm/")[2]
        for line, contexts in data.contexts_by_lineno(path).items():
            found = {name.partition("|")[0] for name in contexts}
            # A fixture that several tests share is run by the first of them alone, and so its lines are.
            files = {name.partition("::")[0] for name in contexts if name.endswith("|setup")}
            found.update(*(of_file[tested] for tested in files))
            tests[file, line] = sorted(found & seconds.keys())
    return tests, seconds


Place = tuple[int, int]  # line, column


def annotations(source: str) -> list[tuple[Place, Place]]:
    """Where annotations and decorators begin and end: no test could notice a change in the first."""
    found = []
    for node in ast.walk(ast.parse(source)):
        parts = [
            getattr(node, "annotation", None),
            getattr(node, "returns", None),
            *getattr(node, "decorator_list", []),
        ]
        for part in parts:
            if isinstance(part, ast.expr):
                end = (part.end_lineno or part.lineno, part.end_col_offset or part.col_offset)
                found.append(((part.lineno, part.col_offset), end))
    return found


def mutants() -> list[Mutant]:
    """Every place that one of the operators changes, but none in an annotation, and none in verify/faults."""
    from cosmic_ray.ast import ast_nodes, get_ast
    from cosmic_ray.plugins import get_operator

    found = []
    for package in PACKAGES:
        for path in sorted((ROOT / "src/recurlm" / package).glob("*.py")):
            source = path.read_text(encoding="utf-8")
            nodes, skipped = list(ast_nodes(get_ast(source))), annotations(source)
            file = str(path.relative_to(ROOT / "src/recurlm"))
            for name in OPERATORS:
                operator = get_operator(f"core/{name}")()
                places = [start for node in nodes for start, _ in operator.mutation_positions(node)]
                for occurrence, place in enumerate(places):
                    if name == "NumberReplacer" and occurrence % 2:
                        continue  # one less; one more was before it
                    if not any(begin <= place < end for begin, end in skipped):
                        found.append(Mutant(file, name, occurrence, place[0]))
    return found


def tests_of(
    mutant: Mutant, tests: dict[tuple[str, int], list[str]], seconds: dict[str, float], budget: float
) -> list[str]:
    """The tests to run: of each test function in turn its quickest one, until `budget` seconds are planned.

    A line that runs at import belongs to no test, and gets those of its whole file.
    """
    names = tests.get((mutant.file, mutant.line)) or sorted(
        {n for (file, _), of in tests.items() if file == mutant.file for n in of}
    )
    functions: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names, key=seconds.__getitem__):
        functions[name.partition("[")[0]].append(name)
    chosen, planned = [], 0.0
    for turn in zip_longest(*functions.values()):
        for name in filter(None, turn):
            planned += seconds[name]
            if planned > budget and chosen:
                return chosen
            chosen.append(name)
    return chosen


def versions(mutant: Mutant) -> tuple[str, str]:
    """The text of its file, without and with the change."""
    from cosmic_ray.mutating import mutate_code
    from cosmic_ray.plugins import get_operator

    source = (ROOT / "src/recurlm" / mutant.file).read_text(encoding="utf-8")
    return source, mutate_code(source, get_operator(f"core/{mutant.operator}")(), mutant.occurrence)


class Bench:
    """A clone of the checkout in which one file at a time is changed, and pytest started on it by a fork.

    The fork has torch, onnx and their like imported already, and nothing of recurlm.
    """

    def __init__(self) -> None:
        shutil.rmtree(CLONE, ignore_errors=True)
        subprocess.run(["git", "clone", "-q", "--no-hardlinks", ROOT, CLONE], check=True)
        self.clock = int(time.time()) - 10_000_000  # of files: no two versions of one have the same second

    def write(self, path: Path, source: str) -> None:
        path.write_text(source, encoding="utf-8")
        self.clock += 1
        os.utime(path, (self.clock, self.clock))

    def outcome(self, mutant: Mutant, chosen: list[str], limit: float) -> str:
        """`caught`, `survived`, or `too long`, which counts as neither."""
        path = CLONE / "src/recurlm" / mutant.file
        source, changed = versions(mutant)
        self.write(path, changed)
        try:
            return self.run(chosen, limit)
        finally:
            self.write(path, source)

    def run(self, chosen: list[str], limit: float) -> str:
        child = os.fork()
        if child == 0:
            os.setsid()
            with (STORE / "log").open("wb") as log:
                os.dup2(log.fileno(), 1)
                os.dup2(log.fileno(), 2)
            os.chdir(CLONE)
            os.environ["PYTHONPATH"] = str(CLONE / "src")
            sys.path[:] = [str(CLONE / "src"), *(part for part in sys.path if not part.startswith(str(ROOT)))]
            for name in [name for name in sys.modules if name.partition(".")[0] in ("recurlm", "common")]:
                del sys.modules[name]  # this program's own; the tests import the clone's
            import pytest

            os._exit(int(pytest.main(["-x", "-q", "-p", "no:cacheprovider", "-m", "not system", *chosen])))
        end = time.monotonic() + limit
        while time.monotonic() < end:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return "survived" if status == 0 else "caught"
            time.sleep(0.02)
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return "too long"


def run(drawn: list[Mutant], budget: float, more: list[str]) -> Iterator[dict[str, Any]]:
    """The outcome of every mutant, and the line before and after; `more` are tests that all are tried on."""
    tests, seconds = tests_by_line()
    bench = Bench()
    for name in IMPORTED_ONCE:
        __import__(name)
    few = ["tests/variants/test_equations.py"]
    if (unchanged := bench.run(few, 600)) != "survived":
        raise InputError(f"{STORE / 'log'}: {few[0]} without a change: {unchanged}")
    for mutant in drawn:
        chosen = [*more, *tests_of(mutant, tests, seconds, budget)]
        outcome = bench.outcome(mutant, chosen, 60 + 3 * budget) if chosen else "not run by these tests"
        before, after = (text.splitlines()[mutant.line - 1].strip() for text in versions(mutant))
        yield {**asdict(mutant), "outcome": outcome, "before": before, "after": after, "tests": len(chosen)}


def summary(results: list[dict[str, Any]]) -> dict[str, Any]:
    """How many were drawn and caught, of each package, and which survived."""
    drawn, caught = (dict.fromkeys(PACKAGES, 0) for _ in range(2))
    for result in results:
        package = result["file"].partition("/")[0]
        drawn[package] += 1
        caught[package] += result["outcome"] == "caught"
    survivors = [result for result in results if result["outcome"] != "caught"]
    return {"drawn": drawn, "caught": caught, "survivors": survivors}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "run"))
    parser.add_argument("--sample", type=int, default=300, help="so many mutants")
    parser.add_argument("--seed", type=int, default=1, help="of the draw")
    parser.add_argument("--budget", type=float, default=60, help="seconds of tests for each mutant, at most")
    parser.add_argument("--again", type=Path, metavar="FILE", help="those that survived a run, whose JSON this is")
    parser.add_argument("--tests", nargs="*", default=[], help="files of tests that are run on every mutant, first")
    add_json_option(parser)
    arguments = parser.parse_args()
    if arguments.what == "record":
        return record()
    everything = mutants()
    if arguments.again:
        fields = ("file", "operator", "occurrence", "line")
        drawn = [Mutant(*(row[name] for name in fields)) for row in read_json(arguments.again)["survivors"]]
    else:
        drawn = random.Random(arguments.seed).sample(everything, min(arguments.sample, len(everything)))
    results: list[dict[str, Any]] = []
    for result in run(drawn, arguments.budget, arguments.tests):
        results.append(result)
        head = f"{len(results)}/{len(drawn)} {result['outcome']} by {result['tests']} tests"
        print(f"{head} | {result['file']}:{result['line']} | {result['after']}", flush=True)
        figures = summary(results)
        write_figures(arguments.json, {"places": len(everything), **figures})  # what is done stays
    print(json.dumps({name: sum(figures[name].values()) for name in ("drawn", "caught")}))


if __name__ == "__main__":
    exit_cleanly(main)
