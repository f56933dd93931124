"""Fill the marks of docs/lesson.md with figures from data/metrics and data/timings; idempotent.

Inputs:  data/metrics, data/timings, data/models, params.yaml
Command: python -m recurlm.report.lesson            # after `dvc repro`
         python -m recurlm.report.lesson --check    # change nothing; status 2 if a figure differs from data/metrics
"""

from __future__ import annotations

from pathlib import Path

from recurlm.errors import exit_cleanly
from recurlm.report.docs import fill, read
from recurlm.report.fill_page import fill_page


def main() -> None:
    fill_page(
        Path("docs/lesson.md"),
        "python -m recurlm.report.lesson",
        lambda text, check: fill(text, read(Path()), timings=not check),
        "its figures are not those of data/metrics",
    )


if __name__ == "__main__":
    exit_cleanly(main)
