"""Stage export@<variant>: a trained model → ONNX graphs in each precision, not yet verified.

Inputs:  data/models/<variant>/, data/tokens/ (the train split is calibrated on), section `export` of params.yaml
Outputs: data/graphs/<variant>/<precision>/ (step.onnx; generator.onnx and scorer.onnx, or filler.onnx and scorer.onnx;
         graphs.json)
Command: python pipelines/export.py <variant>
"""

from __future__ import annotations

from recurlm import model
from recurlm.config import Params
from recurlm.export.bundle import write_all
from recurlm.stage import DATA, run_variant
from recurlm.storage import read_json, whole_folder
from recurlm.tokens.files import open_tokens


def main(name: str, params: Params) -> None:
    trained = model.load(DATA / "models" / name)
    manifest, text = read_json(DATA / "tokens/manifest.json"), open_tokens(DATA / "tokens", "train").ids
    with whole_folder(DATA / "graphs" / name) as folder:
        for precision, products in write_all(folder, name, trained, manifest, params.export, text):
            counts = ", ".join(f"{count} in {kind}" for kind, count in products.items() if count)
            print(f"{name} {precision}: products of all graphs: {counts}", flush=True)


if __name__ == "__main__":
    run_variant(main)
