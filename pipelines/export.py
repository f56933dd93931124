"""Stage export@<variant>: a trained model → ONNX graphs in each precision, not yet proven.

Inputs:  data/models/<variant>/, data/tokens/ (the train split is calibrated on), section `export` of params.yaml
Outputs: data/graphs/<variant>/<precision>/ (step.onnx; generator.onnx and scorer.onnx, or filler.onnx and scorer.onnx;
         graphs.json)
Command: python pipelines/export.py <variant>
"""

from __future__ import annotations

import sys
from pathlib import Path

from recurlm import config, model
from recurlm.errors import InputError, exit_cleanly
from recurlm.export.bundle import never_drawn, write_graphs
from recurlm.export.graphs import Kept
from recurlm.export.sampler import traced_beside
from recurlm.storage import read_json, whole_folder
from recurlm.tokens.files import open_tokens


def main() -> None:
    if len(sys.argv) != 2:
        raise InputError("which variant? python pipelines/export.py VARIANT")
    variant, params = sys.argv[1], config.load()
    params.variant(variant)
    trained = model.load(Path("data/models") / variant)
    tokens = read_json(Path("data/tokens/manifest.json"))
    text = open_tokens(Path("data/tokens"), "train").ids
    suppressed = never_drawn(tokens["special"], trained.causal)
    with (
        traced_beside(trained.vocab_size, suppressed, params.export.opset) as sampler,
        whole_folder(Path("data/graphs") / variant) as folder,
    ):
        kept = Kept(sampler=sampler)
        for precision in params.export.precisions:
            (folder / precision).mkdir()
            products = write_graphs(folder / precision, variant, trained, tokens, params.export, precision, text, kept)
            told = ", ".join(f"{count} in {kind}" for kind, count in products.items() if count)
            print(f"{variant} {precision}: products of all graphs: {told}; none in another precision", flush=True)


if __name__ == "__main__":
    exit_cleanly(main)
