"""The page of `dvc plots show` with Vega inside, which draws offline: python -m recurlm.report.plots_page FILE

DVC takes it as `plots.html_template`; `make setup` sets that. DVC's own page loads Vega from a CDN.
"""

from __future__ import annotations

import sys
from pathlib import Path

from recurlm.errors import InputError, exit_cleanly
from recurlm.report.page import environment, vega
from recurlm.storage import whole_file


def template() -> str:
    """The template: DVC puts the plots at `{plot_divs}`."""
    return environment(html=True).get_template("plots.html.j2").render(vega=vega())


def main() -> None:
    if len(sys.argv) != 2:
        raise InputError("name one file: python -m recurlm.report.plots_page .venv/share/plots.html")
    with whole_file(Path(sys.argv[1])) as partial:
        partial.write_text(template(), encoding="utf-8")


if __name__ == "__main__":
    exit_cleanly(main)
