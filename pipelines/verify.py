"""Stage verify@<variant>: prove that the graphs are their PyTorch model, and make the bundles that ship.

Inputs:  data/graphs/<variant>/, data/models/<variant>/, data/tokens/, data/metrics/<variant>.json,
         sections `verify`, `evaluate` and `export` of params.yaml
Outputs: data/onnx/<variant>/<precision>/ (proven bundles), data/metrics/proof/<variant>.json
         data/timings/generate-<variant>.json (a measurement of this machine: DVC does not hash it)
Command: python pipelines/verify.py <variant>
"""

from __future__ import annotations

import sys
from pathlib import Path

from recurlm import config, model
from recurlm.errors import InputError, exit_cleanly
from recurlm.export.bundle import write_bundle
from recurlm.export.proof.side_by_side import prove_all
from recurlm.export.proof.speed import measure
from recurlm.storage import read_json, sha256_of, whole_folder, write_json


def main() -> None:
    if len(sys.argv) != 2:
        raise InputError("which variant? python pipelines/verify.py VARIANT")
    variant, params = sys.argv[1], config.load()
    params.variant(variant)
    data = Path("data")
    trained = model.load(data / "models" / variant)
    metrics = read_json(data / "metrics" / f"{variant}.json")
    precisions = params.export.precisions
    proven = prove_all(data, variant, precisions, metrics["test"], params.verify, params.evaluate)
    proofs, timings = {}, {}
    with whole_folder(data / "onnx" / variant) as folder:
        for precision in precisions:
            graphs, bundle = data / "graphs" / variant / precision, folder / precision
            facts = {
                "parameters": metrics["parameters"],
                "model_sha256": sha256_of(data / "models" / variant / "model.safetensors"),
                "metrics": {"protocol": metrics["protocol"], **metrics["test"]},
                "verification": proven[precision],
            }
            bundle.mkdir()
            write_bundle(bundle, graphs, data / "tokens" / "tokenizer.json", facts)
            size = sum(file.stat().st_size for file in bundle.iterdir())
            proofs[precision] = proven[precision] | {"bundle_bytes": size}
            timings[precision] = {
                "bundle_sha256": sha256_of(bundle / "bundle.json"),
                **measure(graphs, trained.causal),
            }
    write_json(data / "metrics" / "proof" / f"{variant}.json", proofs)
    write_json(data / "timings" / f"generate-{variant}.json", timings)


if __name__ == "__main__":
    exit_cleanly(main)
