"""Stage diagnose@<variant>: perplexities, gradient flow, effective context, gates, overfitting and samples of a model.

Inputs:  data/models/<variant>/, data/tokens/, data/corpus/, sections `diagnose`, `evaluate`, `train` of params.yaml
Outputs: data/metrics/perplexity/<variant>.json, data/metrics/diagnostics/<variant>.json,
         data/metrics/samples/<variant>.json
Command: python pipelines/diagnose.py <variant>
"""

from __future__ import annotations

from recurlm import model
from recurlm.config import Params
from recurlm.diagnostics.diagnose import diagnose
from recurlm.stage import DATA, make_deterministic, run_variant
from recurlm.storage import write_json


def main(name: str, params: Params) -> None:
    make_deterministic(params.train.machine.threads)
    trained = model.load(DATA / "models" / name).to(model.best_device("auto"))
    results = diagnose(name, trained, params, DATA)
    write_json(DATA / "metrics/perplexity" / f"{name}.json", results.perplexity)
    write_json(DATA / "metrics/diagnostics" / f"{name}.json", results.diagnostics)
    write_json(DATA / "metrics/samples" / f"{name}.json", results.samples)


if __name__ == "__main__":
    run_variant(main)
