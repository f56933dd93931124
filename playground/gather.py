"""Lay bundles into a built playground, and tell the page which there are.

    python playground/gather.py data/onnx playground/dist

reads    every proven bundle under the first folder (data/onnx/<variant>/<precision>/)
writes   bundles/… and manifest.json into the second
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

from recurlm.errors import InputError, exit_cleanly
from recurlm.runtime import Bundle
from recurlm.runtime.bundle import DESCRIPTION
from recurlm.storage import whole_file, whole_folder

GRAPHS = {True: "generator.onnx", False: "filler.onnx"}  # causal → the graph that writes
ALSO = ["step.onnx", "tokenizer.json"]
# The first is what the page starts with: fp32 runs fastest in onnxruntime-web.
PRECISIONS = ["fp32", "int8", "int4"]


def gather(source: Path, built: Path) -> list[dict[str, Any]]:
    """Copy the bundles under `source` into the page at `built`; returns what manifest.json lists.

    Raises:
        InputError: the page was not built, there is no bundle, or one is damaged or was not proven.
    """
    if not (built / "index.html").is_file():
        raise InputError(f"{built}: no built page here: npm --prefix playground run build")
    folders = sorted(path.parent for path in source.glob(f"**/{DESCRIPTION}"))
    if not folders:
        raise InputError(f"{source}: no bundle here: dvc repro")
    listed = []
    with whole_folder(built / "bundles") as target:
        for folder in folders:
            description = _copied(folder, target / folder.relative_to(source))
            listed.append({"path": f"bundles/{folder.relative_to(source).as_posix()}", **description})
    listed.sort(key=_order)
    with whole_file(built / "manifest.json") as path:
        path.write_text(json.dumps({"bundles": listed}), encoding="utf-8")
    return listed


def _copied(folder: Path, place: Path) -> dict[str, Any]:
    bundle = Bundle.open(folder)
    description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_bytes())
    if description["proof"].get("passed") is False:
        raise InputError(f"{folder}: its proof failed, so it is not shown: dvc repro")
    place.mkdir(parents=True)
    for name in [GRAPHS[bundle.causal], *ALSO]:
        shutil.copyfile(folder / name, place / name)
    return description


def _order(description: dict[str, Any]) -> tuple[bool, float, str, int]:
    """Models that write before those that fill, the better first."""
    causal = description["causal"]
    bits = description["metrics"].get("bits_per_byte" if causal else "pseudo_bits_per_byte", 0.0)
    precision = description["precision"]
    return not causal, bits, description["variant"], PRECISIONS.index(precision) if precision in PRECISIONS else 9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of bundles, data/onnx")
    parser.add_argument("built", type=Path, help="folder of the built page, playground/dist")
    arguments = parser.parse_args()
    listed = gather(arguments.source, arguments.built)
    names = ", ".join(f"{each['variant']}/{each['precision']}" for each in listed)
    print(f"{arguments.built}: {len(listed)} bundles ({names})")


if __name__ == "__main__":
    exit_cleanly(main)
