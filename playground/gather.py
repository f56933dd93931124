"""Copy bundles into a built playground, and list them in its manifest.json.

    python playground/gather.py data/onnx playground/dist

reads    every verified bundle under the first folder (data/onnx/<variant>/<precision>/)
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

# The page needs one of the first two: the second is a cloze model's.
GENERATOR, FILLER = "generator.onnx", "filler.onnx"
FILES = ["step.onnx", "tokenizer.json"]
# In the order in which the page lists them; it starts with int8, a quarter of the download.
PRECISIONS = ["fp32", "int8", "int4"]


def gather(source: Path, built: Path) -> list[dict[str, Any]]:
    """Copy the bundles under `source` into the page at `built`; returns what manifest.json lists.

    Raises:
        InputError: the page was not built, there is no bundle, or one is damaged or was not verified.
    """
    if not (built / "index.html").is_file():
        raise InputError(f"{built}: no built page here: npm --prefix playground run build")
    folders = sorted(path.parent for path in source.glob(f"**/{DESCRIPTION}"))
    if not folders:
        raise InputError(f"{source}: no bundle here: dvc repro")
    manifest = []
    with whole_folder(built / "bundles") as target:
        for folder in folders:
            description = _copy(folder, target / folder.relative_to(source))
            manifest.append({"path": f"bundles/{folder.relative_to(source).as_posix()}", **description})
    manifest.sort(key=_order)
    with whole_file(built / "manifest.json") as path:
        path.write_text(json.dumps({"bundles": manifest}), encoding="utf-8")
    return manifest


def _copy(folder: Path, target: Path) -> dict[str, Any]:
    """Copy what the page needs of a bundle; returns its bundle.json."""
    bundle = Bundle.open(folder)
    description: dict[str, Any] = json.loads((folder / DESCRIPTION).read_bytes())
    verification = description.get("verification")
    if not isinstance(verification, dict) or verification.get("verified") is not True:
        raise InputError(f"{folder}: it was not verified, so it is not shown: dvc repro")
    target.mkdir(parents=True)
    for name in [GENERATOR if "generate" in bundle.tasks else FILLER, *FILES]:
        shutil.copyfile(folder / name, target / name)
    return description


def _order(description: dict[str, Any]) -> tuple[bool, float, str, int]:
    """Models that generate before those that fill masks, the better first."""
    generates = GENERATOR in description["files"]
    bits = description["metrics"].get("bits_per_byte" if generates else "pseudo_bits_per_byte", 0.0)
    precision = description["precision"]
    return not generates, bits, description["variant"], PRECISIONS.index(precision) if precision in PRECISIONS else 9


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="folder of bundles, data/onnx")
    parser.add_argument("built", type=Path, help="folder of the built page, playground/dist")
    arguments = parser.parse_args()
    manifest = gather(arguments.source, arguments.built)
    names = ", ".join(f"{each['variant']}/{each['precision']}" for each in manifest)
    print(f"{arguments.built}: {len(manifest)} bundles ({names})")


if __name__ == "__main__":
    exit_cleanly(main)
