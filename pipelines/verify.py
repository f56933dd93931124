"""Stage verify@<variant>: check that the graphs are their PyTorch model, and make the bundles that ship.

Inputs:  data/graphs/<variant>/, data/models/<variant>/, data/tokens/, data/metrics/<variant>.json,
         sections `verify`, `evaluate` and `export` of params.yaml
Outputs: data/onnx/<variant>/<precision>/ (verified bundles),
         data/metrics/verification/<variant>.json (kept by git alone),
         data/metrics/summary/<variant>.json (the row of `dvc metrics show`)
         data/timings/generate-<variant>.json, data/timings/length-<variant>.json
         (measurements of this machine: DVC does not hash them)
Command: python pipelines/verify.py <variant>
"""

from __future__ import annotations

from recurlm.config import Params
from recurlm.stage import DATA, run_variant
from recurlm.storage import whole_folder, write_json
from recurlm.verify.bundles import summary, verify_variant
from recurlm.verify.length import time_by_length


def main(name: str, params: Params) -> None:
    with whole_folder(DATA / "onnx" / name) as folder:
        results, timings = verify_variant(name, params, DATA, folder)
    write_json(DATA / "metrics" / "verification" / f"{name}.json", results)
    write_json(DATA / "metrics" / "summary" / f"{name}.json", summary(name, DATA, results))
    write_json(DATA / "timings" / f"generate-{name}.json", timings)
    # Here and not in stage diagnose, which a fresh clone skips: its results are in git.
    write_json(DATA / "timings" / f"length-{name}.json", time_by_length(name, params, DATA))


if __name__ == "__main__":
    run_variant(main)
