"""Fill README.md and docs/ with the figures and texts of the present results, and redraw docs/plots.

Inputs:  data/metrics, data/timings, data/models, data/onnx, benchmarks/results, params.yaml, dvc.lock
Command: python -m recurlm.report.pages            # after `dvc repro`
         python -m recurlm.report.pages --check    # change nothing; status 2 if a page is not what the results say

docs/made_from.json keeps DVC's hashes of the models and bundles that the texts and pictures are of.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

from recurlm.errors import InputError, exit_cleanly
from recurlm.report import page
from recurlm.report.docs import Measured, fill, read
from recurlm.report.drawing import png
from recurlm.report.lock import Lock
from recurlm.storage import read_json, whole_file, write_json

PAGES = ("README.md", "docs/results.md", "docs/diagnostics.md", "docs/generate.md", "docs/lesson.md")
MADE_FROM = "docs/made_from.json"
# File of the chart beside the page → name and title of the PNG.
PICTURES = {
    "curves.svg": ("learning_curves.png", "Learning curves, left to right"),
    "gradients.svg": ("gradient_flow.png", "Gradient flow: the loss at t with respect to the state at t − k"),
    "context.svg": ("effective_context.png", "Effective context: context cut to k tokens"),
    "speed.svg": ("speed_against_quality.png", "Quality against inference speed: fp32, int8, int4"),
}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m recurlm.report.pages", description="Fill README.md and docs/.")
    parser.add_argument("--check", action="store_true", help="only check whether they are what the results say")
    root = Path()
    if parser.parse_args().check:
        if problems := check(root):
            raise InputError(f"{'; '.join(problems)}: python -m recurlm.report.pages")
        sys.stderr.write("README.md and docs/ are what the results say\n")
        return
    for line in write(root):
        sys.stderr.write(f"{line}\n")


def write(root: Path) -> list[str]:
    """Fill the pages, redraw the pictures, and note what they were made from; one line per file that changed.

    Raises:
        InputError: there are no results of one whole `dvc repro`.
    """
    measured = read(root)
    if problems := _incomplete(measured):
        raise InputError(f"{'; '.join(problems)}: dvc repro first")
    changed = []
    for name, text in _pages(root).items():
        filled = fill(text, measured, page_name=name, run=lambda mark, above: printed(mark, above, root))
        if filled != text:
            with whole_file(root / name) as partial:
                partial.write_text(filled, encoding="utf-8")
            changed.append(f"{name}: filled")
    changed += draw_pictures(measured, root / "docs/plots")
    write_json(root / MADE_FROM, made_from(root, measured))
    return changed


def check(root: Path) -> list[str]:
    """What the pages have that the results do not say, one line a file.

    Without bundles, as in a fresh clone, the generated texts are checked by what docs/made_from.json says they are of.
    """
    measured = read(root)
    has_bundles = not _incomplete(measured)
    problems = []
    for name, text in _pages(root).items():
        run = (lambda mark, above: printed(mark, above, root)) if has_bundles else None
        if fill(text, measured, timings=False, page_name=name, run=run) != text:
            problems.append(f"{name} is not what the results say")
    noted = root / MADE_FROM
    if noted.is_file() and read_json(noted) != made_from(root, measured):
        problems.append(f"the texts and pictures are of other models than dvc.lock's ({MADE_FROM})")
    return problems


def draw_pictures(measured: Measured, folder: Path) -> list[str]:
    """Draw the main plots as PNG on white; one line a file.

    Raises:
        InputError: there are no results to draw one from.
    """
    drawn = page.draw(measured.results, measured.metrics, page.palette_of(measured.results))
    charts = {chart.file: chart for section in drawn.values() for chart in section}
    lines = []
    for file, (name, title) in PICTURES.items():
        if file not in charts:
            raise InputError(f"data: nothing to draw {name} from: run dvc repro first")
        with whole_file(folder / name) as partial:
            partial.write_bytes(png(charts[file], title))
        lines.append(f"wrote {folder / name}, {(folder / name).stat().st_size / 1000:.0f} kB")
    return lines


def _pages(root: Path) -> dict[str, str]:
    if missing := [name for name in PAGES if not (root / name).is_file()]:
        raise InputError(f"{missing[0]}: no such file: call this in the project's folder")
    return {name: (root / name).read_text(encoding="utf-8") for name in PAGES}


def _incomplete(measured: Measured) -> list[str]:
    return [
        f"{result.name}: {result.stale or 'no model and verified bundle here'}"
        for result in measured.results.variants
        if not result.complete or not result.model
    ]


def made_from(root: Path, measured: Measured) -> dict[str, str]:
    """Path of each model and its bundles → DVC's hash of it in dvc.lock."""
    lock = Lock(root)
    names = [f"{stage}@{variant}" for variant in measured.variants for stage in ("train", "verify")]
    return {
        path: md5
        for name in names
        for path, md5 in lock.outs(name).items()
        if path.startswith(("data/models/", "data/onnx/"))
    }


def printed(command: str, above: str, root: Path) -> str:
    """What the last command of these first words that stands above on the page prints, as a block of text.

    Raises:
        InputError: there is no such command, or it fails.
    """
    blocks = re.findall(r"^```sh\n(.*?)^```$", above, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith(f"{command} ")]
    if not lines:
        raise InputError(f"no command '{command} …' stands above its output")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    ran = subprocess.run(
        ["bash", "-c", lines[0]], cwd=root, env=os.environ | {"PATH": path}, capture_output=True, text=True
    )
    if ran.returncode:
        raise InputError(f"{lines[0]}: {' '.join(ran.stderr.split())[-300:]}")
    return f"```text\n{ran.stdout.rstrip()}\n```"


if __name__ == "__main__":
    exit_cleanly(main)
