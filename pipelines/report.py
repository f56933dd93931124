"""Stage report: all variants on one page.

Inputs:  data/metrics/, data/onnx/, data/models/, data/timings/, the manifests of data/corpus/ and data/tokens/,
         sections `report` and `variants` of params.yaml
Outputs: data/report/: curves and summary.json for DVC; the page, its charts and samples, in which there are timings of
         this machine, so that DVC does not hash them
Command: python pipelines/report.py
"""

from __future__ import annotations

import sys
from pathlib import Path

from recurlm.errors import exit_cleanly
from recurlm.report.build import FOLDER, build


def main() -> None:
    build(Path())
    sys.stderr.write(f"report: wrote {FOLDER / 'index.html'}\n")


if __name__ == "__main__":
    exit_cleanly(main)
