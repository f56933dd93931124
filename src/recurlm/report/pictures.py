"""PNG files of the main plots for a README: python -m recurlm.report.pictures [FOLDER]

PNG with a small palette, on white, from the results in data/.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import vl_convert
from PIL import Image

from recurlm import config
from recurlm.errors import InputError, exit_cleanly
from recurlm.report import page_sections
from recurlm.report.charts.base import VEGA_LITE, Chart, static_spec
from recurlm.report.heat_map import EMPTY
from recurlm.report.results import load_results
from recurlm.storage import whole_file

# File of the chart beside the page → name and title of the PNG.
PICTURES = {
    "curves.svg": ("learning_curves.png", "Learning curves: validation loss, left to right"),
    "gradients.svg": ("gradient_flow.png", "Gradient flow: the loss at t with respect to the state at t − k"),
    "context.svg": ("effective_context.png", "Effective context: context cut to k tokens"),
    "speed.svg": ("speed_against_quality.png", "Quality against inference speed: fp32, int8, int4"),
}
INK, PAPER = "#1f2328", "#ffffff"
COLOURS = 64


def png(chart: Chart, title: str) -> bytes:
    """A chart as PNG at twice the screen's resolution."""
    spec = static_spec(chart, INK, width=560, title=title, background=PAPER, padding=14)
    drawn = vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, scale=2)
    with Image.open(io.BytesIO(drawn)) as image, io.BytesIO() as file:
        image.convert("RGB").quantize(COLOURS, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        return file.getvalue()


def draw(root: Path, folder: Path) -> list[str]:
    """Draw all pictures; one line a file.

    Raises:
        InputError: there are no results to draw one from.
    """
    lines = []
    results = load_results(root, config.load(root / "params.yaml"))
    sections = page_sections.sections(results, (), EMPTY)
    charts = {chart.file: chart for section in sections for chart in section.charts}
    for file, (name, title) in PICTURES.items():
        if file not in charts:
            raise InputError(f"data: nothing to draw {name} from: run dvc repro first")
        with whole_file(folder / name) as partial:
            partial.write_bytes(png(charts[file], title))
        lines.append(f"wrote {folder / name}, {(folder / name).stat().st_size / 1000:.0f} kB")
    return lines


def main() -> None:
    for line in draw(Path(), Path(sys.argv[1] if len(sys.argv) > 1 else "docs/plots")):
        sys.stderr.write(f"{line}\n")


if __name__ == "__main__":
    exit_cleanly(main)
