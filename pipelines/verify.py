"""Stage verify@<variant>: check that the graphs are their PyTorch model, and make the bundles that ship.

Inputs:  data/graphs/<variant>/, data/models/<variant>/, data/tokens/, data/metrics/<variant>.json,
         sections `verify`, `evaluate` and `export` of params.yaml
Outputs: data/onnx/<variant>/<precision>/ (verified bundles),
         data/metrics/verification/<variant>.json (kept by git alone),
         data/metrics/summary/<variant>.json (the row of `dvc metrics show`)
         data/timings/generate-<variant>.json (a measurement of this machine: DVC does not hash it)
Command: python pipelines/verify.py <variant>
"""

from __future__ import annotations

from recurlm.config import Params
from recurlm.stage import DATA, run_variant
from recurlm.storage import whole_folder, write_json
from recurlm.verify.bundles import summary, verify_variant


def main(name: str, params: Params) -> None:
    with whole_folder(DATA / "onnx" / name) as folder:
        results, timings = verify_variant(name, params, DATA, folder)
    write_json(DATA / "metrics" / "verification" / f"{name}.json", results)
    write_json(DATA / "metrics" / "summary" / f"{name}.json", summary(name, DATA, results))
    write_json(DATA / "timings" / f"generate-{name}.json", timings)


if __name__ == "__main__":
    run_variant(main)
