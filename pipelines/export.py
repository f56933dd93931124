"""Stage export@<variant>: a trained model → ONNX graphs, not yet proven.

Inputs:  data/models/<variant>/, data/tokens/ (manifest.json, tokenizer.json), section `export` of params.yaml
Outputs: data/graphs/<variant>/ (step.onnx; generator.onnx and scorer.onnx, or filler.onnx and scorer.onnx; graphs.json)
Command: python pipelines/export.py <variant>
"""

from __future__ import annotations

import sys
from pathlib import Path

from recurlm import config, model
from recurlm.errors import InputError, exit_cleanly
from recurlm.export.bundle import write_graphs
from recurlm.storage import read_json, whole_folder


def main() -> None:
    if len(sys.argv) != 2:
        raise InputError("which variant? python pipelines/export.py VARIANT")
    variant, params = sys.argv[1], config.load()
    params.variant(variant)
    trained = model.load(Path("data/models") / variant)
    tokens = read_json(Path("data/tokens/manifest.json"))
    with whole_folder(Path("data/graphs") / variant) as folder:
        write_graphs(folder, variant, trained, tokens, params.export)


if __name__ == "__main__":
    exit_cleanly(main)
