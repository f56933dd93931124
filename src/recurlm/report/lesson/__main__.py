"""Fill the marks of docs/lesson.md with figures from data/metrics and data/timings; idempotent.

Inputs:  data/metrics, data/timings, data/models, params.yaml
Command: python -m recurlm.report.lesson            # after `dvc repro`
         python -m recurlm.report.lesson --check    # change nothing; status 2 if a figure differs from data/metrics
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from recurlm.errors import InputError, exit_cleanly
from recurlm.report.lesson.marks import fill
from recurlm.report.lesson.measured import read
from recurlm.storage import whole_file

PAGE = Path("docs/lesson.md")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recurlm.report.lesson", description=f"Fill {PAGE} with figures.")
    parser.add_argument("--check", action="store_true", help="only check whether its figures are those of data/metrics")
    check = parser.parse_args().check
    if not PAGE.is_file():
        raise InputError(f"{PAGE}: no such file: call this in the project's folder")
    text = PAGE.read_text(encoding="utf-8")
    filled = fill(text, read(Path()), timings=not check)
    if filled == text:
        sys.stderr.write(f"{PAGE}: nothing new\n")
    elif check:
        raise InputError(f"{PAGE}: its figures are not those of data/metrics: python -m recurlm.report.lesson")
    else:
        with whole_file(PAGE) as partial:
            partial.write_text(filled, encoding="utf-8")
        sys.stderr.write(f"{PAGE}: filled\n")


if __name__ == "__main__":
    exit_cleanly(main)
