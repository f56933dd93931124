"""Stage evaluate@<variant>: score every token of the validation and test splits once.

Inputs:  data/models/<variant>/, data/tokens/, section `evaluate` of params.yaml
Outputs: data/metrics/<variant>.json
Command: python pipelines/evaluate.py <variant>
"""

from __future__ import annotations

from typing import Any

from recurlm import model
from recurlm.config import Params
from recurlm.errors import InputError
from recurlm.evaluation.perplexity import describe, score
from recurlm.objective import objective_of
from recurlm.progress import progress_bar
from recurlm.stage import DATA, run_variant
from recurlm.storage import write_json
from recurlm.tokens.files import open_tokens


def main(name: str, params: Params) -> None:
    trained = model.load(DATA / "models" / name).to(model.best_device("auto"))
    objective = objective_of(trained)
    splits = {split: open_tokens(DATA / "tokens", split) for split in ("validation", "test")}
    if trained.vocab_size != splits["test"].manifest["vocab_size"]:
        raise InputError(f"data/models/{name}: trained with another vocabulary than data/tokens: train it again")
    metrics: dict[str, Any] = {
        "variant": name,
        "objective": objective.name,
        "protocol": objective.protocol,
        "parameters": model.count_parameters(trained),
    }
    for split, tokens in splits.items():
        with progress_bar(split, tokens.counts["tokens"], "token") as bar:
            nats = score(trained, tokens.ids, tokens.starts, **params.evaluate.model_dump(), progress=bar.update)
        metrics[split] = describe(nats, tokens.counts, objective.metric_prefix)
    write_json(DATA / "metrics" / f"{name}.json", metrics)


if __name__ == "__main__":
    run_variant(main)
