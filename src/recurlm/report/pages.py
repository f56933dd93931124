"""Fill README.md and docs/ with the figures and texts of the present results, and redraw docs/plots.

Inputs:  data/metrics, data/timings, data/models, data/onnx, benchmarks/results, params.yaml, dvc.lock
Command: python -m recurlm.report.pages                    # after `dvc repro`
         python -m recurlm.report.pages docs/lesson.md     # this page alone, with what there are results of
         python -m recurlm.report.pages --check            # change nothing; status 2 if a page is another one

docs/made_from.json keeps DVC's hashes of the models and bundles that the texts and pictures are of.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from recurlm.errors import InputError, exit_cleanly
from recurlm.report import page
from recurlm.report.docs import Measured, fill, read
from recurlm.report.drawing import png
from recurlm.report.lock import Lock
from recurlm.storage import read_json, whole_file, write_json

PAGES = (
    "README.md",
    *(f"docs/{name}.md" for name in ("results", "compare", "diagnostics", "generate", "lesson", "family")),
)
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
    parser.add_argument("pages", nargs="*", metavar="PAGE", help="these alone; default: all, and docs/plots")
    arguments = parser.parse_args()
    lines = (check if arguments.check else write)(Path(), tuple(arguments.pages))
    if arguments.check and lines:
        raise InputError(f"{'; '.join(lines)}: python -m recurlm.report.pages")
    sys.stderr.write("\n".join(lines or ["README.md and docs/ are what the results say"]) + "\n")


def write(root: Path, names: tuple[str, ...] = ()) -> list[str]:
    """Fill the pages, redraw the pictures, and note what they were made from; one line per file that changed.

    Args:
        names: pages to fill alone, with what there is.

    Raises:
        InputError: there are no results of one whole `dvc repro`, and no names.
    """
    measured, changed = read(root), []
    if not names and (problems := _incomplete(measured)):
        raise InputError(f"{'; '.join(problems)}: dvc repro first")
    for name, text, filled in _filled(root, measured, names, timings=True):
        if filled != text:
            with whole_file(root / name) as partial:
                partial.write_text(filled, encoding="utf-8")
            changed.append(f"{name}: filled")
    if not names:
        changed += draw_pictures(measured, root / "docs/plots")
        write_json(root / MADE_FROM, made_from(root, measured))
    return changed


def check(root: Path, names: tuple[str, ...] = ()) -> list[str]:
    """What the pages have that the results do not say, one line a file.

    Without bundles, as in a fresh clone, the generated texts are checked by what docs/made_from.json says they are of.
    """
    measured = read(root)
    filled = _filled(root, measured, names, timings=False)
    problems = [f"{name} is not what the results say" for name, text, new in filled if new != text]
    noted = root / MADE_FROM
    if not names and noted.is_file() and read_json(noted) != made_from(root, measured):
        problems.append(f"the texts and pictures are of other models than dvc.lock's ({MADE_FROM})")
    return problems


def _filled(root: Path, measured: Measured, names: tuple[str, ...], timings: bool) -> Iterator[tuple[str, str, str]]:
    """(name, present text, filled text) of each page; without bundles, generated texts stay as they are."""
    run = None if _incomplete(measured) else (lambda mark, above: printed(mark, above, root))
    for name in names or PAGES:
        if not (root / name).is_file():
            raise InputError(f"{name}: no such file: call this in the project's folder")
        text = (root / name).read_text(encoding="utf-8")
        yield name, text, fill(text, measured, timings, name, run)


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


def _incomplete(measured: Measured) -> list[str]:
    missing = [result for result in measured.results.variants if not result.complete or not result.model]
    return [f"{result.name}: {result.stale or 'no model and verified bundle here'}" for result in missing]


def made_from(root: Path, measured: Measured) -> dict[str, str]:
    """Path of each model and its bundles → DVC's hash of it in dvc.lock."""
    lock, variants = Lock(root), measured.results.params.variants
    outs = [lock.outs(f"{stage}@{variant}") for variant in variants for stage in ("train", "verify")]
    return {path: md5 for each in outs for path, md5 in each.items() if path.startswith(("data/models/", "data/onnx/"))}


def printed(command: str, above: str, root: Path) -> str:
    """What the last command of these first words that stands above on the page prints, as a block of text.

    Raises:
        InputError: there is no such command, or it fails.
    """
    blocks = re.findall(r"^```sh\n(.*?)^```$", above, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.splitlines() if line.startswith(f"{command} ")]
    if not lines:
        raise InputError(f"no command '{command} …' stands above its output")
    variables = os.environ | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"}
    ran = subprocess.run(["bash", "-c", lines[0]], cwd=root, env=variables, capture_output=True, text=True)
    if ran.returncode:
        raise InputError(f"{lines[0]}: {' '.join(ran.stderr.split())[-300:]}")
    return f"```text\n{ran.stdout.rstrip()}\n```"


if __name__ == "__main__":
    exit_cleanly(main)
